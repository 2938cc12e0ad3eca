"""Restores: byte for byte, continued after an interruption, at a time, and refused where they must be."""

from pathlib import Path

import pytest

from coffer.archive.copies.memory_target import MemoryTarget
from coffer.archive.copies.restore import Restore
from coffer.archive.reader import LogReader
from coffer.archive.repair.repair import repair
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import ConfigError, IntegrityError, NotFoundError, UnavailableError
from tests.archive.conftest import FIRST_MS
from tests.archive.copies.conftest import BackedUp


def segments(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "segments").glob("*.seg"))}


def test_what_comes_back_is_what_was_there(backed: BackedUp, tmp_path: Path) -> None:
    made = backed.run()
    folder = backed.restore(made, tmp_path / "restored")
    assert list(Verifier(folder).findings()) == []
    before, after = segments(backed.archive.folder.path), segments(folder.path)
    assert list(before) == list(after)
    assert all(before[name].startswith(after[name]) for name in before)
    assert read_checkpoint(folder) == read_checkpoint(backed.archive.folder)


def test_an_interrupted_restore_goes_on(backed: BackedUp, memory: MemoryTarget, tmp_path: Path) -> None:
    made = backed.run()
    get, left = memory.get, [4]

    def failing(name: str, most: int = 1 << 30) -> bytes:
        left[0] -= 1
        if left[0] < 0:
            raise UnavailableError("the target is gone")
        return get(name, most)

    memory.get = failing  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        backed.restore(made, tmp_path / "restored")
    memory.get = get  # type: ignore[method-assign]
    assert not (tmp_path / "restored" / "archive.json").exists()
    work = Restore(backed.shelf, made, tmp_path / "restored")
    work.begin()
    work.fetch()
    assert work.kept > 0
    assert list(Verifier(work.finish()).findings()) == []


def test_what_an_interrupted_restore_left_is_compared(backed: BackedUp, tmp_path: Path) -> None:
    made = backed.run()
    work = Restore(backed.shelf, made, tmp_path / "restored")
    work.begin()
    work.fetch()
    path = tmp_path / "restored" / "segments" / "00000002.seg"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    again = Restore(backed.shelf, made, tmp_path / "restored")
    again.begin()
    again.fetch()
    assert again.taken == made.segments[1].blob.size
    assert list(Verifier(again.finish()).findings()) == []


def test_a_folder_that_holds_anything_else_is_refused(backed: BackedUp, tmp_path: Path) -> None:
    made = backed.run()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "note").write_text("mine")
    with pytest.raises(ConfigError):
        backed.restore(made, tmp_path / "used")
    with pytest.raises(ConfigError):
        backed.restore(made, backed.archive.folder.path)
    work = Restore(backed.shelf, made, tmp_path / "begun")
    work.begin()
    with pytest.raises(ConfigError, match="another restore"):
        Restore(backed.shelf, backed.run(), tmp_path / "begun").begin()


def test_nothing_of_a_piece_that_was_tampered_with_is_used(
    backed: BackedUp, memory: MemoryTarget, tmp_path: Path
) -> None:
    made = backed.run()
    name = backed.shelf.piece_name(made.segments[3].blob.pieces[1])
    memory.put(name, bytes(len(memory.get(name))))
    with pytest.raises(IntegrityError):
        backed.restore(made, tmp_path / "restored")
    assert not (tmp_path / "restored" / "archive.json").exists()


def test_the_log_as_it_was_at_a_time(backed: BackedUp, tmp_path: Path) -> None:
    reader = LogReader(backed.archive.folder)
    last_ms = [header.time_ms for _, header in reader.records()][-1]
    reader.close()
    backed.archive.fill(9, first=20, size=3000, segment_bytes=10_000)
    backed.archive.checkpoint()
    made = backed.run()
    folder = backed.restore(made, tmp_path / "then", last_ms + 2000)
    assert read_checkpoint(folder).size == 20
    verifier = Verifier(folder)
    assert list(verifier.findings()) == []
    assert verifier.summary.records == 20
    with pytest.raises(NotFoundError):
        backed.restore(made, tmp_path / "before", FIRST_MS - 1)
    assert read_checkpoint(backed.restore(made, tmp_path / "after", 1 << 50)).size == 29


def test_a_segment_that_is_lost_after_the_log_went_on_comes_from_an_older_snapshot(
    backed: BackedUp, tmp_path: Path
) -> None:
    made = backed.run()
    backed.archive.fill(5, first=20, size=3000, segment_bytes=10_000)
    backed.archive.checkpoint()
    copy = backed.restore(made, tmp_path / "restored")
    lost = backed.archive.segments()[2]
    lost.unlink()
    report = repair(backed.archive.folder, copy)
    assert [each.segment for each in report.repaired] == [3]
    assert report.remaining == []
