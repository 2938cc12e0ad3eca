"""Every access leaves its record before anything leaves the archive: who, what and when, over DICOM, HTTP and at the
command line, denials included. Where no record can be made, nothing is answered.

The list that `coffer audit search` gives is compared with what was done, act by act.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.archive.store import free_space
from coffer.index.dicom.identifier import encode_identifier
from coffer.keys.errors import UnavailableError
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.server.config.load import load_config
from coffer.server.config.settings import Config
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.identity import account
from coffer.server.main.demo import encoded, sample_study
from coffer.server.main.service import Server
from tests.server.dimse.raw_peer import Broken, Message, RawRequestor
from tests.server.filled import free_port, run, study_files, told
from tests.server.served import serving

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
FIND, GET, MOVE = map(max, (negotiation.FIND, negotiation.GET, negotiation.MOVE))  # Study Root
OFFERS = [
    *(Offer(2 * i + 1, each, (EXPLICIT_LE,)) for i, each in enumerate((negotiation.VERIFICATION, FIND, MOVE, GET))),
    Offer(9, CT, (EXPLICIT_LE,)),
    Offer(11, CT, (EXPLICIT_LE,), scu=False, scp=True),
]
LEVEL, STUDY, PATIENT = 0x00080052, 0x0020000D, "DEMO-1"
OUT_OF_RESOURCES, NOT_AUTHORIZED = 0xA700, 0x0124
ROLES = ("modality", "pacs", "clerk", "monitoring", "auditor", "privacy-officer", "key-officer", "admin")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """An archive with one study of three objects, without users."""
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text(
        f'archive = "data"\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {free_port()}\nprocesses = 1\n'
        f'[http]\nport = {free_port()}\n[[peers]]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {free_port()}\n'
    )
    run("init")
    run("put", *map(str, study_files(Path("in"))))
    return load_config(Path("coffer.toml"))


def study() -> str:
    return str(sample_study()[0].StudyInstanceUID)


def searched(*options: str) -> list[dict[str, Any]]:
    """What the trail has, as the command prints it."""
    return json.loads(run("audit", "search", "--json", *options).stdout)  # type: ignore[no-any-return]


def short(rows: list[dict[str, Any]]) -> Counter[tuple[str, str | None, str, str]]:
    return Counter((row["action"], row["stage"], row["outcome"], row["who"]) for row in rows)


@contextmanager
def association(config: Config, calling: str) -> Iterator[RawRequestor]:
    with RawRequestor(config.dimse.port, OFFERS, calling=calling) as peer:
        yield peer


def asked(config: Config, calling: str, syntax: str, field: int, **more: str) -> tuple[int, int]:
    """How a query or retrieval of the study ends, and how many answers or objects came before."""
    keys = encode_identifier({LEVEL: ("STUDY",), STUDY: (study(),)}, (), implicit=False)
    came: list[Message] = []
    with association(config, calling) as peer:
        peer.request(peer.context(syntax), field, keys, **more)
        if field == dimse.C_GET:
            last = peer.final(lambda each: came.append(each) or 0)  # type: ignore[func-returns-value]
        else:
            *came, last = peer.responses()
        return last.status, len([each for each in came if each.data])


def stored(config: Config, calling: str, number: int) -> int:
    ds = sample_study()[0]
    ds.SOPInstanceUID = f"{ds.StudyInstanceUID}.9.{number}"
    with association(config, calling) as peer:
        peer.request(peer.contexts[9], dimse.C_STORE, encoded(ds), AFFECTED_INSTANCE=ds.SOPInstanceUID)
        return peer.final().status


def as_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setattr(account, "login_account", lambda: name)


def test_the_list_equals_what_was_done(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of a site with users: every verb at every door, permitted and denied."""
    log_in = as_user(monkeypatch)
    run("users", "add", "admin", "--role", "admin", "--account", "admin")
    log_in("admin")
    for role in ROLES[:-1]:
        proofs = ("--ae-title", role.upper()[:16], "--address", "127.0.0.1", "--account", role)
        run("users", "add", role, "--role", role, *proofs)
    users = Path("users.toml")
    users.write_text(users.read_text().replace("treatment_without_consent = false", "treatment_without_consent = true"))
    log_in("auditor")
    before = {row["record"] for row in searched()}
    done = Counter[tuple[str, str | None, str, str]]()

    def did(action: str, who: str, *, outcome: str = "success", stage: str = "done") -> None:
        done[action, stage, outcome, who] += 1

    with serving():
        assert stored(site, "MODALITY", 1) == 0
        did("store", "modality")
        assert stored(site, "MODALITY", 1) == 0  # the same again: held already
        did("store", "modality")
        assert stored(site, "CLERK", 2) == NOT_AUTHORIZED
        did("store", "clerk", outcome="denied")
        assert asked(site, "CLERK", FIND, dimse.C_FIND) == (0, 1)
        did("find", "clerk")
        assert asked(site, "MONITORING", FIND, dimse.C_FIND) == (NOT_AUTHORIZED, 0)
        did("find", "monitoring", outcome="denied")
        assert asked(site, "CLERK", GET, dimse.C_GET) == (NOT_AUTHORIZED, 0)
        did("retrieve", "clerk", outcome="denied")
        assert asked(site, "PACS", GET, dimse.C_GET) == (0, 4)
        did("retrieve", "pacs", stage="begun")
        did("retrieve", "pacs")
        assert asked(site, "PACS", MOVE, dimse.C_MOVE, DESTINATION="PACS")[0] == 0xA702  # nobody listens there
        did("move", "pacs", stage="begun")
        did("move", "pacs", outcome="denied")
        with pytest.raises(Broken):
            RawRequestor(site.dimse.port, OFFERS, calling="STRANGER")
        assert httpx.get(f"http://127.0.0.1:{site.http.port}/metrics", timeout=30).status_code == 401
        log_in("clerk")
        run("find")
        did("find", "clerk")
        run("get", "--study", study(), "--out", "out", code=10)
        did("export", "clerk", outcome="denied")
        run("hold", "add", study(), "--reason", "r", code=10)
        did("hold", "clerk", outcome="denied")
        log_in("privacy-officer")
        run("hold", "add", study(), "--reason", "r")
        did("hold", "privacy-officer", stage="begun")
        log_in("key-officer")
        run("keys", "rotate")
        did("rotate", "key-officer", stage="begun")
        log_in("admin")
        run("audit", "search", code=10)
        did("read-audit", "admin", outcome="denied")
    log_in("auditor")
    found = [row for row in searched() if row["record"] not in before or row["record"] is None]
    acts = [row for row in found if row["stage"]]
    apart = {"associate", "serve", "manage-users"}
    # That of the first user is in the log before: he is recorded at once.
    assert len([row for row in acts if row["action"] == "manage-users"]) == len(ROLES) - 1
    own = {("read-audit", "begun", "success", "auditor")}
    seen = short([row for row in acts if row["action"] not in apart])
    assert {each: n for each, n in seen.items() if each not in own} == done
    let_in = short([row for row in acts if row["action"] == "associate"])
    assert let_in["associate", "begun", "denied", "STRANGER"] == 1
    for who in ("modality", "clerk", "monitoring", "pacs"):
        assert let_in["associate", "begun", "success", who] == let_in["associate", "done", "success", who] > 0
    assert [row["stage"] for row in acts if row["action"] == "serve"] == ["begun", "done"]
    assert {"hold.added", "epoch.rotated"} <= {row["action"] for row in found}


def test_what_is_recorded_says_of_whom_and_how_many(site: Config) -> None:
    with serving():
        assert asked(site, "PACS", GET, dimse.C_GET) == (0, 3)
        assert stored(site, "PACS", 1) == stored(site, "PACS", 1) == 0
    begun, ended = searched("--action", "retrieve")
    for row in (begun, ended):
        assert (row["patient"], row["study"], row["objects"]) == ([PATIENT], [study()], 3)
        assert (row["who"], row["from"]) == ("PACS", "127.0.0.1")
    assert [row["details"]["code"] for row in searched("--action", "store")] == ["C", "R"]
    assert len(searched("--patient", PATIENT)) == len(searched("--study", study())) > 4
    assert searched("--patient", "SOMEBODY") == []


# Nothing is answered without a record


@pytest.mark.parametrize("where", ["full", "failing"])
def test_without_a_record_nothing_leaves(site: Config, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    append = LogWriter.append

    def failing(self: LogWriter, entries: Any) -> Any:
        if any(each.kind == Kind.AUDIT for each in entries):
            raise UnavailableError("it is not written", hint="wait")
        return append(self, entries)

    with Server(site) as server:
        assert asked(site, "PACS", FIND, dimse.C_FIND) == (0, 1)
        with monkeypatch.context() as patch:
            if where == "full":
                patch.setattr(free_space, "free_bytes", lambda _: 1 << 20)
            else:
                patch.setattr(LogWriter, "append", failing)
            assert asked(site, "PACS", FIND, dimse.C_FIND) == (OUT_OF_RESOURCES, 0)
            assert asked(site, "PACS", GET, dimse.C_GET) == (OUT_OF_RESOURCES, 0)
            assert stored(site, "PACS", 1) == OUT_OF_RESOURCES
            assert any("no audit record of it can be stored" in each for each in server.reasons())
        assert asked(site, "PACS", GET, dimse.C_GET) == (0, 3)
        assert server.reasons() == []
    assert short(searched("--action", "find"))["find", "done", "success", "PACS"] == 1
    assert [row["stage"] for row in searched("--action", "retrieve")] == ["begun", "done"]


def test_a_command_that_cannot_leave_a_record_answers_nothing(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = LmdbKeyringStore.__init__

    def on_a_read_only_medium(self: LmdbKeyringStore, *args: Any, **options: Any) -> None:
        if not options.get("readonly"):
            raise UnavailableError("the file system is read-only")
        opened(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LmdbKeyringStore, "__init__", on_a_read_only_medium)
        for words in (("find",), ("get", "--study", study(), "--out", "out"), ("audit", "search")):
            refused = run(*words, code=18)
            assert refused.stdout == ""
            assert "no audit record of it can be stored" in refused.stderr
            assert "--unaudited REASON" in refused.stderr
        assert not Path("out").exists()
        assert len(told_rows("find", "--unaudited", "a copy for the court")) == 1
        assert (
            "nothing is recorded of this command: a copy for the court"
            in run("find", "--unaudited", "a copy for the court").stderr
        )
        run("find", "--unaudited", "", code=18)
        run("status")  # says nothing of any patient
    assert [row for row in searched() if row["action"] in {"find", "export"}] == []


def told_rows(*words: str) -> list[dict[str, Any]]:
    return json.loads(run(*words, "--json").stdout)  # type: ignore[no-any-return]


# It lasts


def test_the_record_outlives_what_it_is_about(site: Config) -> None:
    run("get", "--study", study(), "--out", "out")
    run("shred", "study", study(), "--reason", "a request", "--yes")
    assert told_rows("find") == []
    life = json.loads(run("audit", "study", study(), "--json").stdout)
    assert list(dict.fromkeys(row["action"] for row in life)) == ["import", "export", "shred"]
    assert sum(row["objects"] for row in life if row["action"] == "import") == 3
    assert all(row["patient"] == [PATIENT] for row in life)
    assert "study.shredded" in {row["action"] for row in searched()}
    run("verify", "--level", "decrypt")


def test_an_older_trail_beside_what_it_was_signed_with_is_found(site: Config) -> None:
    parts = ("segments", "checkpoints", "tiles")
    for part in parts:
        shutil.copytree(Path("data", part), Path("older", part))
    run("find")
    run("checkpoint", "sign")
    for part in parts:
        shutil.rmtree(Path("data", part))
        shutil.copytree(Path("older", part), Path("data", part))
    assert "the log ends here" in run("verify", code=1).output
    run("put", *map(str, study_files(Path("more"))), code=13)


def test_an_altered_record_is_found(site: Config) -> None:
    run("find")
    run("checkpoint", "sign")
    assert told("audit", "verify")["waiting_in_the_keyring"] == 1  # that it is verified
    segment = max(Path("data/segments").iterdir())
    content = bytearray(segment.read_bytes())
    content[-200] ^= 1
    segment.write_bytes(content)
    assert run("verify", code=None).exit_code != 0
