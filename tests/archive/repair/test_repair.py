"""Damage is mended from a copy, without keys, and only with what was signed; a stop at any call loses nothing."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.archive.events.repairs import LossAccepted, SegmentRepaired
from coffer.archive.format.record import HEADER, record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.repair.deferred_events import DeferredEvent, defer, read_deferred
from coffer.archive.repair.repair import repair
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.errors import CofferError, InputError, IntegrityError, UnavailableError
from tests.archive.conftest import SIGNER, FaultyCalls, SmallArchive
from tests.archive.events.samples import sample

ONE = record_size(40)
THREE = SEGMENT_HEADER.size + 3 * ONE


@pytest.fixture
def pair(small: SmallArchive, tmp_path: Path) -> Iterator[tuple[SmallArchive, ArchiveFolder]]:
    """Four segments of three records and an open one of two, all signed; and a copy."""
    small.fill(14, segment_bytes=THREE)
    small.checkpoint()
    shutil.copytree(small.folder.path, tmp_path / "copy")
    yield small, ArchiveFolder.open(tmp_path / "copy")
    small.damaged = False  # what was mended must be clean


def flip(folder: ArchiveFolder, number: int, *offsets: int) -> None:
    data = bytearray(folder.segment_files.path(number).read_bytes())
    for offset in offsets:
        data[offset] ^= 1
    folder.segment_files.path(number).write_bytes(data)


def record(place: int, offset: int) -> int:
    """An offset within the n-th record of a segment."""
    return SEGMENT_HEADER.size + place * ONE + offset


def whole(folder: ArchiveFolder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.segments.iterdir()}


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize(
    "offset", [0, 50, 95, record(0, 0), record(0, 100), record(0, HEADER.size + 3), record(1, ONE - 2), -1, -50, -130]
)
def test_any_damage_is_mended_and_the_file_is_as_it_was(
    pair: tuple[SmallArchive, ArchiveFolder], number: int, offset: int
) -> None:
    small, copy = pair
    before = whole(small.folder)
    flip(small.folder, number, offset)
    damaged = small.folder.segment_files.path(number).read_bytes()
    report = repair(small.folder, copy)
    assert [m.segment for m in report.repaired] == [number]
    assert report.remaining == small.findings() == []
    assert whole(small.folder) == before
    assert (small.folder.lost_and_found / report.repaired[0].kept).read_bytes() == damaged
    (deed,) = read_deferred(small.folder)
    assert deed.was_done(small.folder)
    assert isinstance(deed.event, SegmentRepaired)
    assert deed.event.segment == number


def test_two_copies_damaged_in_different_places_make_one_whole(pair: tuple[SmallArchive, ArchiveFolder]) -> None:
    small, copy = pair
    before = whole(small.folder)
    flip(small.folder, 2, record(0, HEADER.size), record(2, 30))
    flip(copy, 2, record(1, HEADER.size), 40)
    (mended,) = repair(small.folder, copy).repaired
    assert mended.records == (3, 5)
    assert whole(small.folder) == before


def test_a_record_that_both_lack_is_told_and_nothing_changes(pair: tuple[SmallArchive, ArchiveFolder]) -> None:
    small, copy = pair
    for folder in (small.folder, copy):
        flip(folder, 2, record(1, HEADER.size))
    before = small.files()
    with pytest.raises(IntegrityError, match="record 4 of segment 2 is damaged here and in the copy"):
        repair(small.folder, copy)
    assert small.files() == before
    flip(small.folder, 2, record(1, HEADER.size))


def test_a_missing_and_a_cut_segment(pair: tuple[SmallArchive, ArchiveFolder]) -> None:
    small, copy = pair
    before = whole(small.folder)
    small.folder.segment_files.path(2).unlink()
    os.truncate(small.folder.segment_files.path(4), 300)
    report = repair(small.folder, copy)
    assert [(m.segment, bool(m.kept)) for m in report.repaired] == [(2, False), (4, True)]
    assert whole(small.folder) == before


def test_only_the_given_records(pair: tuple[SmallArchive, ArchiveFolder]) -> None:
    small, copy = pair
    flip(small.folder, 1, record(0, HEADER.size), record(2, HEADER.size))
    report = repair(small.folder, copy, only={2})
    assert [m.records for m in report.repaired] == [(2,)]
    assert [f.seq for f in report.remaining] == [0]
    assert [m.records for m in repair(small.folder, copy).repaired] == [(0,)]


def test_a_forged_record_is_not_taken(pair: tuple[SmallArchive, ArchiveFolder], tmp_path: Path) -> None:
    """A copy that is well formed in itself, with this archive's ids, but not what was signed."""
    small, copy = pair
    other = SmallArchive(tmp_path / "other")
    other.fill(14, first=50, segment_bytes=THREE)
    for path in other.segments():
        shutil.copy(path, copy.segments)
    flip(small.folder, 2, record(1, HEADER.size))
    before = small.files()
    with pytest.raises(IntegrityError, match="not what was signed"):
        repair(small.folder, copy)
    assert small.files() == before
    flip(small.folder, 2, record(1, HEADER.size))
    other.close()


def test_another_archive_is_refused(pair: tuple[SmallArchive, ArchiveFolder], tmp_path: Path) -> None:
    small, copy = pair
    about = json.loads((copy.path / "archive.json").read_text())
    (copy.path / "archive.json").write_text(json.dumps({**about, "archive_id": "00" * 16}))
    with pytest.raises(InputError, match="another archive"):
        repair(small.folder, ArchiveFolder.open(copy.path))


def test_what_is_not_signed_is_not_taken(small: SmallArchive, tmp_path: Path) -> None:
    small.fill(3)
    small.checkpoint()
    small.fill(3, first=3)
    shutil.copytree(small.folder.path, tmp_path / "copy")
    flip(small.folder, 1, record(4, HEADER.size))
    with pytest.raises(IntegrityError, match="no signed checkpoint covers"):
        repair(small.folder, ArchiveFolder.open(tmp_path / "copy"))
    flip(small.folder, 1, record(4, HEADER.size))


def test_an_older_copy_mends_what_it_has_and_cuts_nothing(small: SmallArchive, tmp_path: Path) -> None:
    small.fill(3)
    small.checkpoint()
    shutil.copytree(small.folder.path, tmp_path / "copy")
    small.fill(4, first=3)
    small.checkpoint()
    before = whole(small.folder)
    flip(small.folder, 1, record(1, 20))
    repair(small.folder, ArchiveFolder.open(tmp_path / "copy"))
    assert whole(small.folder) == before


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_the_checkpoint_is_taken_too(pair: tuple[SmallArchive, ArchiveFolder], damage: str) -> None:
    small, copy = pair
    path = small.folder.checkpoint
    note = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(note.replace(b"\n14\n", b"\n13\n"))
    assert repair(small.folder, copy).checkpoint
    assert path.read_bytes() == note
    assert small.findings() == []


def test_a_checkpoint_that_the_log_here_does_not_reach_is_not_taken(small: SmallArchive, tmp_path: Path) -> None:
    small.fill(3)
    small.checkpoint()
    older = small.files()
    small.fill(2, first=3)
    small.checkpoint()
    shutil.copytree(small.folder.path, tmp_path / "copy")
    small.folder.segment_files.path(1).write_bytes(older["segments/00000001.seg"])
    small.folder.checkpoint.write_bytes(b"nothing")
    report = repair(small.folder, ArchiveFolder.open(tmp_path / "copy"))
    assert not report.checkpoint
    assert report.remaining
    for name in ("checkpoints/latest", "checkpoints/history"):
        (small.folder.path / name).write_bytes(older[name])


def test_a_damaged_checkpoint_is_put_back_from_the_history(small: SmallArchive, tmp_path: Path) -> None:
    """Here is the newer one: yesterday's copy would take a day away."""
    small.fill(3)
    small.checkpoint()
    shutil.copytree(small.folder.path, tmp_path / "copy")
    small.fill(2, first=3)
    small.checkpoint()
    note = small.folder.checkpoint.read_bytes()
    small.folder.checkpoint.write_bytes(b"nothing")
    report = repair(small.folder, ArchiveFolder.open(tmp_path / "copy"))
    assert report.checkpoint
    assert not report.remaining
    assert small.folder.checkpoint.read_bytes() == note


def test_nothing_is_left_behind_by_a_repair_that_is_refused(pair: tuple[SmallArchive, ArchiveFolder]) -> None:
    small, copy = pair
    flip(small.folder, 1, record(0, HEADER.size))
    for folder in (small.folder, copy):
        flip(folder, 3, record(0, HEADER.size))
    before = small.files()
    with pytest.raises(IntegrityError, match="record 6 of segment 3"):
        repair(small.folder, copy)
    assert small.files() == before
    for number in (1, 3):
        flip(small.folder, number, record(0, HEADER.size))


@pytest.mark.parametrize("after_effect", [False, True])
def test_a_stop_at_every_call(
    pair: tuple[SmallArchive, ArchiveFolder], faulty: FaultyCalls, *, after_effect: bool
) -> None:
    """Whatever fails, each segment file is one whole version or the other, and repairing again ends well."""
    small, copy = pair
    good = {n: small.folder.segment_files.path(n).read_bytes() for n in (2, 4)}
    failures = 0
    for at in range(200):
        for number in good:
            flip(small.folder, number, record(1, HEADER.size))
        bad = {n: small.folder.segment_files.path(n).read_bytes() for n in good}
        faulty.arm(at, after_effect=after_effect)
        try:
            repair(small.folder, copy, calls=faulty)
        except UnavailableError:
            failures += 1
        is_past_the_end = faulty.fail_at is not None and faulty.fail_at >= len(faulty.made)
        faulty.fail_at = None
        if is_past_the_end:
            break
        for number, data in good.items():
            assert small.folder.segment_files.path(number).read_bytes() in (data, bad[number])
        for deed in read_deferred(small.folder):
            assert isinstance(deed.event, SegmentRepaired)
            number = deed.event.segment
            assert (
                not deed.was_done(small.folder) or small.folder.segment_files.path(number).read_bytes() == good[number]
            )
        repair(small.folder, copy)
        assert small.findings() == []
        for kept in small.folder.lost_and_found.iterdir():
            kept.unlink()
        (small.folder.path / "pending.json").unlink(missing_ok=True)
    assert failures > 15
    for number, data in good.items():
        assert small.folder.segment_files.path(number).read_bytes() == data


def test_a_repair_that_is_run_again_after_a_crash_is_announced_once(pair: tuple[SmallArchive, ArchiveFolder]) -> None:
    small, copy = pair
    for number in (1, 3):
        flip(small.folder, number, record(1, HEADER.size))
    damaged = {number: small.folder.segment_files.path(number).read_bytes() for number in (1, 3)}
    repair(small.folder, copy)
    announced = read_deferred(small.folder)
    small.folder.segment_files.path(3).write_bytes(damaged[3])  # as if it had stopped between the two
    repair(small.folder, copy)
    assert read_deferred(small.folder) == announced
    assert len(announced) == 2


def planted(count: int) -> list[DeferredEvent]:
    return [
        DeferredEvent(SegmentRepaired(segment=1, taken_records=(number,), kept=None), "segment:1:")
        for number in range(count)
    ]


@pytest.mark.parametrize("what", ["a thousand", "noise", "a folder"])
def test_what_lies_in_the_place_of_announcements_is_set_aside_and_stops_no_repair(
    pair: tuple[SmallArchive, ArchiveFolder], what: str
) -> None:
    small, copy = pair
    path = small.folder.path / "pending.json"
    if what == "a thousand":
        defer(small.folder, planted(1000))
    elif what == "noise":
        path.write_bytes(b"noise")
    else:
        path.mkdir()
    (small.folder.lost_and_found / "pending.json").mkdir()
    (small.folder.path / ".pending.json.new").mkdir()
    before = path.read_bytes() if path.is_file() else None
    flip(small.folder, 1, record(1, HEADER.size))
    repair(small.folder, copy)
    (deed,) = read_deferred(small.folder)
    assert isinstance(deed.event, SegmentRepaired)
    assert deed.event.taken_records == (1,)
    (kept,) = small.folder.lost_and_found.glob("pending.json-*")
    assert (kept.read_bytes() if kept.is_file() else None) == before
    assert list(small.folder.path.glob(".pending.json.new-*"))


def test_signed_announcements_stay_where_planted_ones_leave_no_room(pair: tuple[SmallArchive, ArchiveFolder]) -> None:
    small, copy = pair
    signed = [
        DeferredEvent.signed(SIGNER, small.folder, sample(LossAccepted), f"note:{number:064x}") for number in range(2)
    ]
    defer(small.folder, [*signed, *planted(998)])
    flip(small.folder, 1, record(1, HEADER.size))
    repair(small.folder, copy)
    assert read_deferred(small.folder)[:2] == signed
    assert len(read_deferred(small.folder)) == 3


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "other bytes"])
def test_a_name_that_is_taken_in_lost_and_found_stops_no_repair(
    pair: tuple[SmallArchive, ArchiveFolder], kind: str
) -> None:
    small, copy = pair
    flip(small.folder, 1, record(1, HEADER.size))
    damaged = small.folder.segment_files.path(1).read_bytes()
    taken = small.folder.lost_and_found / f"00000001.seg-damaged-{hashlib.sha256(damaged).hexdigest()[:16]}"
    take(taken, kind)
    (mended,) = repair(small.folder, copy).repaired
    assert mended.kept.startswith(f"{taken.name}-")
    assert (small.folder.lost_and_found / mended.kept).read_bytes() == damaged
    (deed,) = read_deferred(small.folder)
    assert deed.was_done(small.folder)


def take(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"other bytes")


def test_a_copy_that_is_no_archive(pair: tuple[SmallArchive, ArchiveFolder], tmp_path: Path) -> None:
    small, copy = pair
    flip(small.folder, 1, record(0, HEADER.size))
    copy.segment_files.path(1).unlink()
    with pytest.raises(CofferError, match="cannot give segment 1"):
        repair(small.folder, copy)
    flip(small.folder, 1, record(0, HEADER.size))
