"""Promise: each remedy that is printed for a loss makes the archive whole when somebody types it.

Adversary: as in `test_every_remedy_works`. Crossed with every part of an archive that may be lost, and with every
remedy that is offered for it.
"""

import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from coffer.archive.events.event import Event
from coffer.archive.events.repairs import LossAccepted, SegmentRepaired, SegmentsTaken
from coffer.archive.format.record import Kind
from coffer.archive.repair.deferred_events import DeferredEvent, defer
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.findings import RecordedFinding
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading
from tests.conftest import ROOT
from tests.promises.damaged import COMMANDS, FILES, damage, fold, remove
from tests.server.filled import run, told
from tests.typed_remedies import complaint


def copy_of(whole: Path, folder: Path) -> Path:
    """A copy of the site, with its archive, as somebody would type it."""
    shutil.copytree(whole, folder)
    return folder


def require_whole() -> None:
    """The archive in the working folder is whole, is written, and has every object."""
    run("put", "files")
    run("verify", "--level", "decrypt")
    run("recover", "show")
    assert told("status")["refused"] is None
    assert told("status")["objects"] == 3


def remedies() -> list[str]:
    """The commands that `coffer recover show` prints as remedies."""
    said = run("recover", "show", code=1).output.partition("remedies")[2]
    return [line.strip() for line in said.splitlines() if line.startswith("  coffer ")]


def typed(line: str, copy: Path) -> list[str]:
    """The words of a remedy, for a copy of the archive."""
    return line.partition("   ")[0].replace("COPY", str(copy / "archive")).split()[1:]


def drop(*names: str) -> Callable[[Path], None]:
    """Remove these parts of the archive."""

    def fault(folder: Path) -> None:
        for name in names:
            path = folder / "archive" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return fault


LOSSES: Final = {
    "segments": drop("segments"),
    "the last segment": drop("segments/00000001.seg"),
    "history": drop("checkpoints/history"),
    "latest": drop("checkpoints/latest"),
    "checkpoints": drop("checkpoints"),
    "a damaged history": lambda folder: damage(folder / FILES["history"]),
    "a damaged latest": lambda folder: damage(folder / FILES["latest"]),
    "tiles and history": drop("tiles", "checkpoints/history"),
}


@pytest.mark.parametrize("lost", LOSSES)
def test_every_remedy_that_recover_show_prints_makes_the_archive_whole(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    copy = copy_of(whole, tmp_path / "copy")
    first = copy_of(whole, tmp_path / "first")
    LOSSES[lost](first)
    monkeypatch.chdir(first)
    offered = [line for line in remedies() if "accept-loss" not in line]
    assert any("recover from" in line for line in offered)
    for number, line in enumerate(offered):
        site = copy_of(whole, tmp_path / f"site-{number}")
        LOSSES[lost](site)
        monkeypatch.chdir(site)
        run(*typed(line, copy))
        require_whole()


def test_a_repair_brings_back_the_history_with_every_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, site = copy_of(whole, tmp_path / "copy"), copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    history = site / FILES["history"]
    notes = history.read_bytes()
    damage(history)
    run("repair", "--from", str(copy / "archive"))
    assert history.read_bytes()[: len(notes)] == notes
    assert list((site / "archive/lost+found").glob("history-*.notes"))
    require_whole()


def test_without_its_keyring_an_archive_offers_nothing_but_the_keyring(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    shutil.rmtree("archive/keyring")
    said = run("recover", "show", code=1).output
    assert f"as {site / 'archive/keyring'}" in said
    assert remedies() == ["coffer recover show             then shows whether anything else is missing"]
    shutil.copytree(whole / "archive/keyring", site / "archive/keyring")
    require_whole()


def test_without_archive_json_no_new_archive_is_offered_and_any_copy_of_it_helps(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    Path(FILES["archive"]).unlink()
    for words in (*COMMANDS.values(), ("init",)):
        said = run(*words, code=5).output
        assert "coffer init" not in said
        assert "put archive.json back" in said
    shutil.copy(whole / FILES["archive"], FILES["archive"])
    require_whole()


def test_archive_json_can_be_written_by_hand_as_the_documents_say(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    Path(FILES["archive"]).unlink()
    page = (ROOT / "docs/integrity.md").read_text(encoding="utf-8")
    form = page.partition("### archive.json is missing")[2].partition("```text\n")[2].partition("```")[0]
    origin = Path(FILES["latest"]).read_text(encoding="utf-8").splitlines()[0]
    first = Path(FILES["endorsements"]).read_text(encoding="utf-8").splitlines()[3]
    for blank, value in {"ID": origin.rpartition("/")[2], "ORIGIN": origin, "KEY": first}.items():
        assert form.count(f'"{blank}"') == 1
        form = form.replace(f'"{blank}"', f'"{value}"')
    Path(FILES["archive"]).write_text(form, encoding="utf-8")
    assert Path(FILES["archive"]).read_bytes() == (whole / FILES["archive"]).read_bytes()
    require_whole()


@pytest.mark.parametrize("fault", [remove, damage, fold])
def test_a_mark_is_made_anew_as_status_says(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None]
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    fault(Path("mark"))
    (degraded, *_) = told("status")["degraded"]  # type: ignore[misc]
    assert str(site / "mark") in degraded
    if "move it away" in degraded:
        Path("mark").rename("moved")
    assert "coffer mark renew --reason TEXT" in degraded
    done = run("mark", "renew", "--reason", "lost")
    assert "remedy: \n" not in done.output
    assert complaint(done.output) is None
    require_whole()


def test_status_says_when_nothing_is_stored_and_why(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    shutil.copytree("archive", "older")
    run("keys", "rotate-signing", "--reason", "a record more")
    shutil.rmtree("archive")
    shutil.copytree("older", "archive")  # put back with everything in it: only the mark knows
    refused = told("status")["refused"]
    assert isinstance(refused, dict)
    assert "the mark outside the folder" in refused["cause"]
    assert complaint(refused["remedy"]) is None
    assert "writing" in run("status").output
    run("put", "files", code=13)
    run("mark", "renew", "--reason", "this is the one that counts")
    require_whole()


def in_the_way(folder: Path) -> None:
    """Somebody who writes the folder put things wherever a recovery writes: names that are taken, folders in the place
    of files that are about to be written, and as many announcements as fit."""
    archive = ArchiveFolder.open(folder / "archive")
    note = hashlib.sha256(archive.checkpoint.read_bytes()).hexdigest()[:16]
    history = hashlib.sha256(archive.checkpoint_history.read_bytes()).hexdigest()[:16]
    for name in (
        f"lost+found/checkpoint-{note}.note", f"lost+found/history-{history}.notes", "lost+found/pending.json",
        ".pending.json.new", "checkpoints/.latest.new", "checkpoints/.history.new", ".tiles.old",
    ):  # fmt: skip
        (archive.path / name / "below").mkdir(parents=True)
    claims = [SegmentRepaired(segment=1, taken_records=(number,), kept=None) for number in range(1000)]
    defer(archive, [DeferredEvent(claim, "segment:1:") for claim in claims])


@pytest.mark.parametrize(("remedy", "kind"), [("recover from", SegmentsTaken), ("accept-loss", LossAccepted)])
def test_what_is_planted_where_a_remedy_writes_stops_none(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remedy: str, kind: type[Event]
) -> None:
    copy, site = copy_of(whole, tmp_path / "copy"), copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    damage(site / FILES["history"])
    in_the_way(site)
    (line,) = (line for line in remedies() if remedy in line)
    run(*typed(line, copy))
    assert "Coffer did not put it there" in run("verify", code=1).output
    pushed_aside = [path.parent for path in Path("archive").rglob("below")]
    assert len(pushed_aside) > 3
    for path in pushed_aside:
        shutil.rmtree(path)
    require_whole()
    with open_reading(load_config(Path("coffer.toml"))) as archive:
        (event,) = (each.event for each in archive.events(frozenset({Kind.REPAIR})))
    assert isinstance(event, kind)


def obey(said: str, copy: Path, heap: Path) -> None:
    """Do what a message tells to do, as somebody does who knows nothing else."""
    named = re.search(r"(?:archive: (\S+)|(/\S+)) (?:is a |cannot be read)", said)
    if named and ("move it away" in said or named[1]):
        Path("archive", named[1] or named[2]).rename(heap / str(len(list(heap.iterdir()))))
    elif moved := re.search(r"remedy: (mv \S+ \S+)", said):
        subprocess.run(shlex.split(moved[1]), check=True)
    elif "coffer index rebuild" in said:
        carry_out(["index", "rebuild"], copy, heap)
    elif "coffer repair --from COPY" in said:
        carry_out(["repair", "--from", str(copy / "archive")], copy, heap)
    elif "coffer recover show" in said:
        carry_out(typed(next(line for line in remedies() if "recover from" in line), copy), copy, heap)
    else:
        assert "not acknowledged: what says so was written without the archive's key" in said, said
        run("scrub", "acknowledge")


def carry_out(words: list[str], copy: Path, heap: Path) -> None:
    """Type a remedy; where it is refused itself, do first what it says then."""
    done = run(*words, code=None)
    if done.exit_code not in {0, 1}:
        obey(done.output, copy, heap)


def plant_findings(folder: Path) -> None:
    """A finding that says it is acknowledged, and one with a time that is no date."""
    scrub = folder / "archive/scrub"
    for planted in (
        RecordedFinding(1, 96, 0, "the body does not match its hash", 5, acknowledged_ms=6),
        RecordedFinding(1, 97, 0, "a record is cut", 1 << 62),
    ):
        (scrub / f"{planted.name}.finding").write_bytes(planted.serialize())


@pytest.mark.parametrize("fault", [damage, fold])
def test_who_obeys_what_each_command_prints_has_a_whole_archive_in_the_end(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None]
) -> None:
    copy, site = copy_of(whole, tmp_path / "copy"), copy_of(whole, tmp_path / "site")
    monkeypatch.chdir(site)
    for name in ("index", "endorsements", "history"):
        fault(site / FILES[name])
    plant_findings(site)
    pending = site / "archive/pending.json"
    pending.write_bytes(b"noise")
    fault(pending)
    heap = tmp_path / "heap"
    heap.mkdir()
    for words in (("scrub", "show"), ("find",), ("put", "files"), ("verify",)):
        for _ in range(6):
            done = run(*words, code=None)
            if not done.exit_code:
                break
            obey(done.output, copy, heap)
        assert done.exit_code == 0, done.output
    require_whole()
