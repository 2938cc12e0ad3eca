"""A copy of an archive that went on by itself (a restore drill), put into the idle archive as a whole or in part: found
and not written on, kept, and decided about by the remedy that is shown. The keys are the same, so all signatures hold.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.archive.events.marks import MarkRenewed
from coffer.archive.events.rekeys import RekeyOrdered
from coffer.archive.events.repairs import SegmentsTaken
from coffer.archive.format.record import Kind
from coffer.server.config.load import load_config
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.opening import open_reading, open_writer
from tests.archive.events.samples import BY, KEY
from tests.forgery.world import files_of
from tests.server.filled import run, study_files, told

_SETTINGS = (
    "archive = 'data'\n[keys]\nkey_file = '{base}/key'\n[storage]\nreserve_bytes = 0\n[integrity]\nmark = '{mark}'\n"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mine` is idle since one object was stored; `drill` is a copy that stored two more and changed its signing key;
    `drill-stored` is what it was before it did."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        (base / "mine").mkdir()
        patch.chdir(base / "mine")
        _settings(base, "mark")
        first, *others = map(str, study_files(base / "files"))
        run("init")
        run("put", first)
        shutil.copytree(base / "mine", base / "drill")
        patch.chdir(base / "drill")
        run("put", *others[:2])
        shutil.copytree("data", base / "drill-stored")
        run("keys", "rotate-signing", "--reason", "drill")
    return base


def _settings(base: Path, mark: str) -> None:
    Path("coffer.toml").write_text(_SETTINGS.format(base=base, mark=mark), encoding="utf-8")


@pytest.fixture
def mine(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The idle archive, in a folder of its own; its files are `made`/files."""
    shutil.copytree(made / "mine", tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


def whole(made: Path) -> None:
    """Everything, keyring and index included."""
    _put_back(made / "drill-stored", "segments", "checkpoints", "tiles", "keyring", "index")


def whole_with_its_key(made: Path) -> None:
    """Everything, after the drill changed its signing key."""
    _put_back(made / "drill" / "data", "segments", "checkpoints", "tiles", "keyring", "index")


def log_only(made: Path) -> None:
    """The log alone: a tail behind the last checkpoint, as a kill leaves it."""
    _put_back(made / "drill-stored", "segments")


def endorsements_only(made: Path) -> None:
    """The endorsement of the drill's signing key, at a size and root that are this archive's too."""
    shutil.copy(made / "drill" / "data" / "checkpoints" / "endorsements", "data/checkpoints/endorsements")


def _put_back(drill: Path, *parts: str) -> None:
    for part in parts:
        shutil.rmtree(Path("data", part))
        shutil.copytree(drill / part, Path("data", part))


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (whole, "written in a copy of the archive"),
        (whole_with_its_key, "written in a copy of the archive"),
        (log_only, "written in a copy of the archive"),
        (endorsements_only, "comes from a copy of the archive"),
    ],
)
def test_it_is_found_nothing_is_written_and_the_loss_of_it_is_accepted(
    made: Path, mine: Path, forge: Callable[[Path], None], says: str
) -> None:
    names = _marked()["records"]
    forge(made)
    before = files_of(mine / "data")
    found = [each["what"] for each in told("verify", "--level", "headers", code=1)["findings"]]  # type: ignore[attr-defined]
    assert [what for what in found if says in what]
    run("put", str(made / "files" / "0.dcm"), code=13)
    assert {name: data for name, data in files_of(mine / "data").items() if name != "LOCK"} == {
        name: data for name, data in before.items() if name != "LOCK"
    }
    shown = told("recover", "show", code=1)
    assert shown["records"] == names
    run("recover", "accept-loss", "--to", str(names))
    run("put", str(made / "files" / "1.dcm"))
    assert told("verify", "--level", "headers")["findings"] == []
    run("recover", "show")


@pytest.mark.parametrize("parts", [("segments",), ("segments", "checkpoints", "tiles")], ids=["log", "checkpoints"])
def test_what_a_drill_erased_lives_in_the_archive(made: Path, mine: Path, parts: tuple[str, ...]) -> None:
    """Whoever plants the drill's log erases nothing: no refused opening obeys it, nor the remedy that drops it."""
    (study,) = {each["StudyInstanceUID"] for each in json.loads(run("find", "--level", "study", "--json").stdout)}
    run("hold", "add", study, "--reason", "court")
    names = _marked()["records"]
    shutil.copytree(mine, mine.parent / "drill")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(mine.parent / "drill")
        run("hold", "remove", json.loads(run("hold", "list", "--json").stdout)[0]["hold"])
        run("shred", study, "--reason", "drill", "--yes")
        run("keys", "rotate")
    _put_back(mine.parent / "drill" / "data", *parts)
    for words in (("put", str(made / "files" / "0.dcm")), ("checkpoint", "sign"), ("keys", "rotate")):
        run(*words, code=13)
    run("recover", "accept-loss", "--to", str(names))
    assert json.loads(run("shred", "list", "--json").stdout)["shreds"] == []
    assert len(json.loads(run("hold", "list", "--json").stdout)) == 1
    assert told("keys", "audit")["findings"] == []
    run("get", "--study", str(study), "--out", "got")
    assert any(Path("got").rglob("*.dcm"))


def test_whoever_goes_on_with_the_drill_decides_so(made: Path, mine: Path) -> None:
    whole_with_its_key(made)
    run("put", str(made / "files" / "0.dcm"), code=13)
    run("mark", "renew", "--reason", "the drill is the archive now")
    run("put", str(made / "files" / "0.dcm"))
    assert told("verify", "--level", "decrypt")["findings"] == []


def test_a_repair_does_not_take_the_key_of_a_drill(made: Path, mine: Path) -> None:
    run("repair", "--from", str(made / "drill" / "data"))
    assert not Path("data/checkpoints/endorsements").exists()
    run("put", str(made / "files" / "1.dcm"))


def test_each_opening_has_a_lineage_of_its_own_that_the_mark_has_first(made: Path, mine: Path) -> None:
    seen = [_marked()["lineage"]]
    for number in (1, 2):
        with open_writer(load_config(Path("coffer.toml"))) as engine:
            seen.append(engine.log.lineage.hex())
            assert _marked() == {**_marked(), "lineage": seen[-1]}
        run("put", str(made / "files" / f"{number}.dcm"))
        seen.append(_marked()["lineage"])
    assert len(set(seen)) == len(seen)


def test_no_power_cut_between_log_and_mark_needs_a_person(made: Path, mine: Path) -> None:
    """Behind the last group of one writer, behind the opening of the next, and behind its first group."""
    cuts = 0

    def cut() -> None:
        nonlocal cuts
        cuts += 1
        Path(f"cut{cuts}").mkdir()
        shutil.copytree("data", f"cut{cuts}/data")
        shutil.copy("mark", f"cut{cuts}/mark")

    def go_back(number: int) -> None:
        shutil.rmtree("data")
        shutil.copytree(f"cut{number}/data", "data")
        shutil.copy(f"cut{number}/mark", "mark")

    with open_writer(load_config(Path("coffer.toml"))) as engine:
        engine.record_event(RekeyOrdered(new_key=KEY, reason="one", by=BY))
        cut()
    go_back(1)
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        cut()
        engine.record_event(RekeyOrdered(new_key=KEY, reason="two", by=BY))
        cut()
    for number in range(1, cuts + 1):
        go_back(number)
        assert told("verify", "--level", "headers")["findings"] == []
        run("put", str(made / "files" / "1.dcm"))


def test_a_mark_that_cannot_be_raised_keeps_its_lineage_and_needs_nobody(
    made: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coffer.keys.errors import UnavailableError
    from coffer.server.anchor.mark_file import MarkFile

    def fails(*_: object) -> None:
        raise UnavailableError("the disk is full", hint="free some space")

    with monkeypatch.context() as patch:
        patch.setattr(MarkFile, "write", fails)
        run("put", str(made / "files" / "1.dcm"))
    assert told("verify", "--level", "headers")["findings"] == []
    run("put", str(made / "files" / "2.dcm"))
    assert _marked()["records"] == told("verify")["records"]


def test_a_mark_that_was_away_while_records_were_written_is_decided_about(made: Path, mine: Path) -> None:
    """Nobody can tell such an archive from one that a drill continued."""
    Path("mark").rename("away")
    run("put", str(made / "files" / "1.dcm"))
    Path("away").rename("mark")
    run("put", str(made / "files" / "2.dcm"), code=13)
    run("mark", "renew", "--reason", "its disk was not mounted")
    run("put", str(made / "files" / "2.dcm"))


def test_a_mark_that_comes_back_while_a_writer_runs_is_raised_if_it_fits(made: Path, mine: Path) -> None:
    Path("mark").rename("away")
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        Path("away").rename("mark")
        engine.check_keys()
        lineage = engine.log.lineage.hex()
        run("hold", "add", "1.2.3", "--reason", "something to sign", code=None)
        engine.reconcile()
        engine.sign_checkpoint()
        assert _marked()["lineage"] == lineage
    run("put", str(made / "files" / "1.dcm"))


@pytest.mark.parametrize("part", ["latest", "history"])
def test_an_older_checkpoint_is_refused_and_the_remedy_works(made: Path, mine: Path, part: str) -> None:
    older = Path("data/checkpoints", part).read_bytes()
    run("put", str(made / "files" / "1.dcm"))
    Path("data/checkpoints", part).write_bytes(older)
    assert told("verify", "--level", "headers", code=1)["findings"]
    run("put", str(made / "files" / "2.dcm"), code=13)
    run("recover", "accept-loss", "--to", str(told("recover", "show", code=1)["records"]))
    run("put", str(made / "files" / "2.dcm"))
    assert told("verify", "--level", "headers")["findings"] == []


@pytest.mark.parametrize("has_mark", [True, False])
def test_a_recovery_is_recorded_once(made: Path, mine: Path, monkeypatch: pytest.MonkeyPatch, has_mark: bool) -> None:
    """Its announcement, and the checkpoint that it left, are put back after it was recorded."""
    from coffer.server.engine import opening

    (segment,) = Path("data/segments").iterdir()
    whole_ = segment.read_bytes()
    segment.write_bytes(whole_[: len(whole_) // 2])
    kept: list[tuple[bytes, bytes]] = []

    def keep(archive: WritableArchive) -> None:
        if Path("data/pending.json").exists():
            kept.append((Path("data/pending.json").read_bytes(), Path("data/checkpoints/latest").read_bytes()))
        leave(archive)

    def waits(_seconds: float) -> None:
        raise AssertionError("it waits for a writer, and is the only one")

    leave = opening._leave_deferred
    with monkeypatch.context() as patch:
        patch.setattr(opening, "_leave_deferred", keep)
        patch.setattr("coffer.archive.verify.scan.time.sleep", waits)
        run("recover", "accept-loss", "--to", str(told("recover", "show", code=1)["records"]))
    assert _repairs() == 1
    ((announced, latest),) = kept
    Path("data/pending.json").write_bytes(announced)
    Path("data/checkpoints/latest").write_bytes(latest)
    if has_mark:
        run("put", str(made / "files" / "1.dcm"), code=13)
        return
    Path("mark").unlink()
    run("put", str(made / "files" / "1.dcm"))
    assert _repairs() == 1
    assert not Path("data/pending.json").exists()


@pytest.mark.parametrize("has_mark", [True, False], ids=["with its mark", "without"])
def test_a_recovery_takes_from_a_drill_only_what_somebody_names(made: Path, mine: Path, has_mark: bool) -> None:
    """The copy proves everything that was signed here: it is what it goes on with that is not the archive's."""
    if not has_mark:
        Path("mark").unlink()
    before = {name: data for name, data in files_of(mine / "data").items() if name != "LOCK"}
    said = run("recover", "from", str(made / "drill-stored"), code=12).output
    assert "the copy was continued elsewhere, under lineage " in said
    lineage = said.partition("add --lineage ")[2].split()[0]
    run("recover", "from", str(made / "drill-stored"), "--lineage", "0" * 32, code=12)
    run("recover", "from", str(made / "drill-stored"), "--lineage", "x", code=12)
    assert {name: data for name, data in files_of(mine / "data").items() if name != "LOCK"} == before
    run("recover", "from", str(made / "drill-stored"), "--lineage", lineage)
    with open_reading(load_config(Path("coffer.toml"))) as archive:
        events = [each.event for each in archive.events(frozenset({Kind.REPAIR, Kind.STATE}))]
    (taken,) = (each for each in events if isinstance(each, SegmentsTaken))
    assert f"the copy was continued under lineage {lineage}, which was named" in taken.contradiction
    reasons = [each.reason for each in events if isinstance(each, MarkRenewed)]
    assert reasons == ([f"coffer recover from --lineage {lineage}"] if has_mark else [])
    run("put", str(made / "files" / "2.dcm"))
    assert told("verify", "--level", "headers", code=0 if has_mark else 17)["findings"] == []


def test_a_replica_that_is_ahead_is_taken_without_a_word(made: Path, mine: Path) -> None:
    """Its newest groups are of the lineage that the mark names, and nobody else wrote."""
    with open_writer(load_config(Path("coffer.toml"))) as archive:
        shutil.copytree("data", "then")
        shutil.copy("mark", "mark-then")
        archive.record_event(RekeyOrdered(new_key=KEY, reason="any", by=BY))
        archive.sign_checkpoint()
        shutil.copytree("data", "replica")
        records = archive.log.next_seq
    shutil.copy("mark-then", "mark")
    shutil.rmtree("data")
    shutil.copytree("then", "data")
    run("recover", "from", "replica")
    with open_reading(load_config(Path("coffer.toml"))) as archive:
        assert [p.seq for p, _ in archive.reader.records()][records - 1] == records - 1
    assert told("verify", "--level", "headers")["findings"] == []


def _marked() -> dict[str, object]:
    return told("mark", "show", code=1)  # it is on the archive's own disk


def _repairs() -> int:
    with open_reading(load_config(Path("coffer.toml"))) as archive:
        return sum(1 for _ in archive.events(frozenset({Kind.REPAIR})))


def test_the_tag_binds_the_lineage(made: Path, mine: Path) -> None:
    """Whoever writes the mark's lineage over the drill's finds that the signature does not hold."""
    log_only(made)
    lineage = bytes.fromhex(str(_marked()["lineage"]))
    theirs = json.loads((made / "drill" / "mark").read_text().rsplit("\n", 2)[0])["lineage"]
    (segment,) = Path("data/segments").iterdir()
    data = segment.read_bytes()
    from tests.forgery.kit.segments import parse, serialized

    log = parse(data)
    records = tuple(
        type(each)(each.header, each.body, lineage + each.tag[16:]) if each.ends_group else each for each in log.records
    )
    assert theirs != lineage.hex()
    segment.write_bytes(serialized([type(log)(log.header, records, log.is_sealed)])[0])
    run("verify", "--level", "headers", code=1)
    run("put", str(made / "files" / "0.dcm"), code=13)
