"""Promise: what is on hold, or within its retention, is not erased, whatever else happens to its study.

Adversary "who connects": any peer that may store. It sends objects into the study that say another patient, issuer or
date, or nothing that can be read, and corrects what is there. Adversary "insider without the second officer": may run
every command, has one name. Crossed with: a running server, index rebuilt, objects corrected, requests to shred, rekey,
a wrong clock.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result
from pydicom.dataset import Dataset

from coffer.archive.events.officer import Officer
from coffer.archive.format.record import Kind
from coffer.keys.errors import AccessDeniedError
from coffer.keys.keyring.shred import tombstones
from coffer.server.access.principal import Principal
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.erasure.shred import Authorization, Shredding
from coffer.server.main.demo import encoded
from coffer.server.retention.selection import by_patient, by_study
from coffer.server.services import store as storing
from coffer.server.services.versions import one_version
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, store
from tests.server.filled import free_port, part10, run, told
from tests.set_clock import SetClock

SC, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1"
HELD = "P-4711"
YEARS = 10
EARLY, LATE = "19900101", "20240131"


def data_set(study: str, instance: str, patient: str = HELD, date: str = LATE, **more: str) -> Dataset:
    """A small object."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SC, instance
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
    ds.PatientID, ds.PatientName, ds.StudyDate = patient, "Held^Patient", date
    for name, value in more.items():
        setattr(ds, name, value)
    return ds


def item(ds: Dataset, data: bytes | None = None) -> Item:
    """As a peer sends it."""
    return Item(SC, str(ds.SOPInstanceUID), EXPLICIT_LE, encoded(ds) if data is None else data)


def without(ds: Dataset, *keywords: str) -> Dataset:
    """The same, silent about some things."""
    for keyword in keywords:
        delattr(ds, keyword)
    return ds


@dataclass(frozen=True)
class Attack:
    """What a peer stores into a study, given its UID and that of its one object."""

    name: str
    items: Callable[[str, str], list[Item]]


ATTACKS = (
    Attack("nothing", lambda _study, _one: []),
    Attack("another patient beside", lambda study, one: [item(data_set(study, one + ".9", "P-99"))]),
    Attack("another patient instead", lambda study, one: [item(data_set(study, one, "P-99"))]),
    Attack("twice another patient", lambda study, one: [item(data_set(study, one, p)) for p in ("P-99", "P-98")]),
    Attack("another case", lambda study, one: [item(data_set(study, one, HELD.lower()))]),
    Attack("no Patient ID", lambda study, one: [item(without(data_set(study, one), "PatientID"))]),
    Attack("an empty Patient ID", lambda study, one: [item(data_set(study, one, "  "))]),
    Attack("an issuer", lambda study, one: [item(data_set(study, one, IssuerOfPatientID="ELSEWHERE"))]),
    Attack("an older date", lambda study, one: [item(data_set(study, one, date=EARLY))]),
    Attack("an older date beside", lambda study, one: [item(data_set(study, one + ".9", date=EARLY))]),
    Attack("another's older date", lambda study, one: [item(data_set(study, one, "P-99", date=EARLY))]),
    Attack("no date", lambda study, one: [item(data_set(study, one, date=""))]),
    Attack("no such date", lambda study, one: [item(data_set(study, one, date="19900230"))]),
    Attack("a date to come", lambda study, one: [item(data_set(study, one, date="99991231"))]),
    Attack("no study", lambda study, one: [item(without(data_set(study, one), "StudyInstanceUID"))]),
    Attack("no header", lambda study, one: [item(data_set(study, one), b"\x08\x00\x16\x00UI\xff\xffno header")]),
)  # fmt: skip


def study_of(number: int) -> str:
    """The study that an attack is about."""
    return f"1.2.3.{number + 1}"


@pytest.fixture
def coffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CofferProcess]:
    """An archive that commands of this process find, with a server to be started; verified with keys at the end."""
    monkeypatch.chdir(tmp_path)
    made = CofferProcess(tmp_path, port=free_port(), http=free_port())
    made.write_config()
    made.init()
    yield made
    made.stop()
    run("verify", "--level", "decrypt")


def configure(coffer: CofferProcess, *tables: str) -> None:
    """Write the config file anew."""
    coffer.write_config("\n".join(("", *tables, "")).replace("[keys]\n", ""))


def attacked(coffer: CofferProcess) -> dict[str, bytes]:
    """Let a peer store one object into each study, and then attack. Returns the first ones by study."""
    first: dict[str, bytes] = {}
    items: list[Item] = []
    for number, attack in enumerate(ATTACKS):
        study = study_of(number)
        one = item(data_set(study, f"{study}.1.1"))
        first[study] = one.data
        items += [one, *attack.items(study, f"{study}.1.1")]
    coffer.start()
    assert {reply.status for reply in store(coffer.port, items)} <= {0x0000, 0xB007}
    return first


def shred(*words: str, code: int = 0) -> Result:
    """Shred by the command."""
    return run("shred", *words, "--reason", "r", "--yes", code=code)


def require_kept(coffer: CofferProcess, first: dict[str, bytes], cause: str) -> None:
    """No way leads to the end of a study, and every first object can be got, bit for bit."""
    deed = Authorization("r", (Officer("Insider", "a"),))
    with open_writer(load_config(coffer.config)) as engine:
        theirs = by_patient(engine, HELD, "")
        for study, data in first.items():
            instance = f"{study}.1.1"
            ways = [
                by_study(engine, study, everybody=True),
                by_study(engine, study, HELD),
                theirs,
                *([part] for part in by_study(engine, study, everybody=True)),
            ]
            for selection in ways:
                with pytest.raises(AccessDeniedError, match=cause):
                    Shredding(engine).shred(selection, deed)
            kept = one_version(engine, instance, 1, Principal.peer("ADMIN"), [study])
            assert b"".join(kept.open()) == data
        assert not tombstones(engine.keyring)


def test_no_object_that_a_peer_stores_lifts_a_hold(coffer: CofferProcess) -> None:
    first = attacked(coffer)
    held = coffer.run("hold", "add", "--patient", HELD, "--reason", "court case", "--officer", "Meyer")
    assert f"keeps {len(ATTACKS) + 1} studies" in held.stdout  # one object is in none
    beside = coffer.run("shred", study_of(2), "--all-patients", "--reason", "r", "--yes", check=False)
    assert beside.returncode == 10, beside.stderr
    assert "court case" in beside.stderr
    coffer.stop()
    for words in ((study_of(2), "--patient-id", HELD), (study_of(2), "--patient-id", "P-99"), ("--patient", "P-99")):
        assert "court case" in shred(*words, code=10).output
        assert "court case" in told("shred", *words, "--dry-run")["refused"]["cause"]  # type: ignore[index]
    assert "court case" in run("keys", "rekey", study_of(2), "--reason", "r", "--yes", code=10).output
    require_kept(coffer, first, "court case")
    run("index", "rebuild")
    require_kept(coffer, first, "court case")
    (hold,) = json.loads(run("hold", "list", "--json").stdout)
    run("hold", "remove", hold["hold"])
    on_study = str(told("hold", "add", study_of(2), "--reason", "trial")["hold"])
    assert "trial" in shred("--patient", "P-99", code=10).output
    assert "trial" in shred(study_of(2), "--all-patients", code=10).output
    shred(study_of(1), "--all-patients")
    run("hold", "remove", on_study)
    shred(study_of(2), "--all-patients")
    for number in (1, 2):
        run("get", "--study", study_of(number), code=5)


def test_no_object_that_a_peer_stores_shortens_a_retention(coffer: CofferProcess) -> None:
    first = attacked(coffer)
    coffer.stop()
    configure(coffer, "[retention]", f"years = {YEARS}")
    assert "retention of 10 years" in shred(study_of(8), code=10).output
    require_kept(coffer, first, "retention of 10 years")
    run("index", "rebuild")
    require_kept(coffer, first, "retention of 10 years")


def put(*datasets: Dataset) -> None:
    """Store objects by the command."""
    folder = Path("files")
    folder.mkdir()
    for number, ds in enumerate(datasets):
        (folder / str(number)).write_bytes(part10(ds))
    run("put", "files")
    shutil.rmtree(folder)


def test_a_clock_that_is_wrong_lifts_nothing(coffer: CofferProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(coffer, "[retention]", f"years = {YEARS}")
    with monkeypatch.context() as patched:
        patched.setattr(storing, "clock_ms", lambda: 0)  # it started in 1970
        put(data_set("1.2.3.1", "1.2.3.1.1"), data_set("1.2.3.2", "1.2.3.2.1", date=""))
    put(data_set("1.2.3.3", "1.2.3.3.1", date=EARLY), data_set("1.2.3.4", "1.2.3.4.1", "P-99", date=EARLY))
    run("hold", "add", "1.2.3.3", "--reason", "court case", "--until", "2999-12-31")
    for study in ("1.2.3.1", "1.2.3.2"):
        shred(study, code=10)
    clock = SetClock(coffer.base / "clock.json")
    with monkeypatch.context() as patched:
        clock.install(patched)
        clock.jump(-clock.now_ms)
        for study in ("1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4"):  # in 1970 nothing is over
            shred(study, code=10)
    shred("1.2.3.4", code=10)  # what the clock shows now may be wrong as well
    run("clock", "confirm", "--reason", "set by hand")
    shred("1.2.3.3", code=10)
    shred("1.2.3.4")


def test_no_setting_of_issuers_lifts_a_hold(coffer: CofferProcess) -> None:
    rules = "[patients]", 'default_issuer = "HOSP"'
    configure(coffer, *rules)
    silent, stated = data_set("1.2.3.1", "1.2.3.1.1"), data_set("1.2.3.2", "1.2.3.2.1", IssuerOfPatientID="HOSP")
    mixed = data_set("1.2.3.3", "1.2.3.3.1"), data_set("1.2.3.3", "1.2.3.3.1", IssuerOfPatientID="HOSP")
    put(silent, stated, *mixed)
    hold = told("hold", "add", "--patient", HELD, "--issuer", "HOSP", "--reason", "court case")
    assert hold["keeps_now"] == 3
    for said in (rules, ("[patients]", 'default_issuer = "HOSPITAL"'), ()):
        configure(coffer, *said)
        for study in ("1.2.3.1", "1.2.3.2", "1.2.3.3"):
            assert "court case" in shred(study, "--all-patients", code=10).output
    run("hold", "remove", str(hold["hold"]))
    configure(coffer, *rules)
    other = str(told("hold", "add", "--patient", HELD, "--issuer", "ELSEWHERE", "--reason", "trial")["hold"])
    assert "trial" in shred("1.2.3.1", code=10).output
    assert "trial" in shred("1.2.3.3", code=10).output  # an older version in it is silent
    shred("1.2.3.2")  # which says itself that it is another's
    run("hold", "remove", other)
    shred("1.2.3.1")
    put(data_set("1.2.3.5", "1.2.3.5.1"), data_set("1.2.3.5", "1.2.3.5.2", IssuerOfPatientID="HOSP"))
    configure(coffer, "[patients]", 'default_issuer = "HOSPITAL"')  # two parts now, with the one key they got as one
    assert "coffer shred STUDY_UID --all-patients" in shred("--patient", HELD, "--issuer", "HOSP", code=12).output
    shred("1.2.3.5", "--all-patients")


def test_a_hold_is_on_what_a_shred_of_the_same_words_would_take(coffer: CofferProcess) -> None:
    odd, several = "1.2.3.7\t", "\\".join((200 * "A", 200 * "B"))
    put(
        data_set("1.2.3.1", "1.2.3.1.1"),
        data_set("1.2.3.2", "1.2.3.2.1", several),
        data_set(odd, "1.2.3.7.1", "P-7"),
        without(data_set("1.2.3.4", "1.2.3.4.1", "P-97"), "StudyInstanceUID"),
    )
    for words in (
        ("1.2.3.1\r\n",),
        ("\t1.2.3.1",),
        ("--patient", f"{HELD}\r\n"),
        ("--patient", several),
        ("--instance", "1.2.3.4.1\r"),
        (odd,),
    ):
        hold = told("hold", "add", *words, "--reason", "court case")
        assert hold["keeps_now"] == 1, words
        assert "court case" in shred(*words, code=10).output
        run("hold", "remove", str(hold["hold"]))
    for words in (("1.2.3.1\n1.2.3.2",), ("1.2.3.1 1.2.3.2",), ("--instance", "1\x002"), ("1.2.3.\u0661",)):
        assert "this is no UID" in run("hold", "add", *words, "--reason", "r", code=12).output
        assert "this is no UID" in shred(*words, code=12).output
    assert "control characters" in run("hold", "add", "--patient", f"{HELD}\nP-7", "--reason", "r", code=12).output
    assert "belongs to a study" in run("hold", "add", "--instance", "1.2.3.1.1", "--reason", "r", code=12).output
    assert json.loads(run("hold", "list", "--json").stdout) == []
    assert "keeps nothing that is stored now" in run("hold", "add", "1.2.3.9", "--reason", "r").output
    shred("1.2.3.2", "--patient-id", several)
    shred(odd)


def test_a_hold_that_an_older_keyring_lacks_is_named_to_whoever_accepts_that(coffer: CofferProcess) -> None:
    put(data_set("1.2.3.1", "1.2.3.1.1"))
    shutil.copytree(coffer.archive / "keyring", "before")
    held = str(told("hold", "add", "1.2.3.1", "--reason", "court case", "--officer", "Meyer")["hold"])
    ended = str(told("hold", "add", "--patient", HELD, "--reason", "trial")["hold"])
    run("hold", "remove", ended)
    shutil.rmtree(coffer.archive / "keyring")
    shutil.copytree("before", coffer.archive / "keyring")
    shown = told("recover", "show", code=1)
    (lost,) = shown["lost_holds"]  # type: ignore[misc]
    assert [lost[name] for name in ("hold", "on", "officer", "reason")] == [held, "study", "Meyer", "court case"]
    assert f"hold {held} on a study" in run("recover", "show", code=1).output
    said = run("recover", "accept-loss", "--to", str(shown["records"])).output
    assert f"hold {held} on a study, until removed, by Meyer" in said
    assert "coffer hold add" in said
    assert ended not in said
    assert told("recover", "show")["lost_holds"] == []


def test_an_insider_without_the_second_officer_erases_nothing_else(coffer: CofferProcess) -> None:
    put(data_set("1.2.3.1", "1.2.3.1.1"), data_set("1.2.3.2", "1.2.3.2.1", "P-99"), data_set("1.2.3.3", "1.9", "P-98"))
    put(without(data_set("1.2.3.4", "1.2.3.4.1", "P-97"), "StudyInstanceUID"))
    configure(coffer, "[keys]", "shred_approvals = 2")
    for words in (("1.2.3.1",), ("--patient", HELD), ("1.2.3.1", "--all-patients"), ("--instance", "1.2.3.4.1")):
        assert "2 officers must agree" in shred(*words, code=10).output
    # What the other officer agrees to is what goes, not what is put into it between.
    asked = [
        str(told("shred", "request", *words, "--reason", "r", "--officer", "Meyer")["request"])
        for words in (("1.2.3.1",), ("--patient", "P-99"), ("1.2.3.3",), ("--instance", "1.2.3.4.1"))
    ]
    for request in asked:
        shown = told("shred", "approve", request, "--officer", "MEYER", "--dry-run")
        assert "another officer" in shown["refused"]["cause"]  # type: ignore[index]
        assert "another officer" in run("shred", "approve", request, "--officer", " meyer ", code=10).output
    put(data_set("1.2.3.1", "1.2.3.1.2"))  # more of the patient
    put(data_set("1.2.3.2", "1.2.3.2.2", HELD))  # another patient
    put(data_set("1.2.3.3", "1.9", "P-98", date=EARLY))  # another version
    put(without(data_set("1.2.3.4", "1.2.3.4.1", "P-97", date=EARLY), "StudyInstanceUID"))
    for request in asked:
        shown = told("shred", "approve", request, "--dry-run")
        assert "has changed since" in shown["refused"]["cause"]  # type: ignore[index]
        assert "has changed since" in run("shred", "approve", request, "--officer", "Braun", code=10).output
    with open_reading(load_config(coffer.config)) as engine:
        assert engine.index.stats().studies == 4  # one has two patients
        assert not [*engine.events(frozenset({Kind.SHRED_SCHEDULED}))]
    for request in asked:
        run("shred", "cancel", request)
    again = str(
        told("shred", "request", "1.2.3.2", "--patient-id", HELD, "--reason", "r", "--officer", "Meyer")["request"]
    )
    hold = str(told("hold", "add", "--patient", "P-99", "--reason", "court case")["hold"])  # beside him in the study
    assert "court case" in run("shred", "approve", again, "--officer", "Braun", code=10).output
    run("hold", "remove", hold)
    run("shred", "approve", again, "--officer", "Braun")
    assert [each["patient_id"] for each in told("shred", "1.2.3.2", "--dry-run")["erases"]] == ["P-99"]  # type: ignore[attr-defined]
