"""Without a key, verification finds every flipped byte, cut, swap and old copy, and names the segment."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coffer.archive.format.record import record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.verify.verify import Verifier
from tests.archive.conftest import SmallArchive, entry

RANDOM_FLIPS = 400
STEP = 1 if os.environ.get("COFFER_EVERY_BYTE") else 3
ONE = record_size(40)


@pytest.fixture
def three(small: SmallArchive) -> SmallArchive:
    """Three segments of three, three and two records, all of them signed."""
    small.fill(8, segment_bytes=SEGMENT_HEADER.size + 3 * ONE)
    small.checkpoint()
    assert len(small.segments()) == 3
    return small


@contextmanager
def flipped(path: Path, offset: int, mask: int) -> Iterator[None]:
    """The file with one byte XORed, put back after."""
    fd = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte[0] ^ mask]), offset)
        yield
        os.pwrite(fd, byte, offset)
    finally:
        os.close(fd)


@contextmanager
def changed(small: SmallArchive) -> Iterator[None]:
    """Put the segment files back as they were."""
    kept = {p: p.read_bytes() for p in small.segments()}
    yield
    for path, data in kept.items():
        path.write_bytes(data)


def test_every_byte_of_every_segment(three: SmallArchive) -> None:
    dice = random.Random(1)
    for path in three.segments():
        for offset in range(dice.randrange(STEP), path.stat().st_size, STEP):
            with flipped(path, offset, dice.choice((0xFF, 1 << dice.randrange(8)))):
                found = three.findings()
                assert int(path.stem) in {f.segment for f in found}, (path.name, offset, found)


def test_hundreds_of_flipped_bits_of_a_larger_one(small: SmallArchive) -> None:
    small.fill(60, size=3000, segment_bytes=64 << 10)
    small.checkpoint()
    dice = random.Random(20)
    paths = small.segments()
    sizes = [p.stat().st_size for p in paths]
    for _ in range(RANDOM_FLIPS):
        path = dice.choices(paths, sizes)[0]
        offset = dice.randrange(path.stat().st_size)
        with flipped(path, offset, 1 << dice.randrange(8)):
            found = small.findings()
            assert int(path.stem) in {f.segment for f in found}, (path.name, offset, found)


def test_headers_level_finds_all_but_flipped_bodies(three: SmallArchive) -> None:
    path, body = three.segments()[0], SEGMENT_HEADER.size + 160 + 5
    with flipped(path, body, 1):
        assert three.findings(bodies=False) == []
        assert [(f.segment, f.seq) for f in three.findings()] == [(1, 0)]
    with flipped(path, SEGMENT_HEADER.size + 20, 1):
        assert three.findings(bodies=False)


def test_a_body_that_is_damaged_is_one_finding_with_its_place(three: SmallArchive) -> None:
    with flipped(three.segments()[1], SEGMENT_HEADER.size + ONE + 160 + 39, 0x80):
        (found,) = three.findings()
    assert (found.segment, found.offset, found.seq) == (2, SEGMENT_HEADER.size + ONE + 160, 4)


@pytest.mark.parametrize("records", [0, 1])
def test_a_cut_below_the_checkpoint(three: SmallArchive, records: int) -> None:
    with changed(three):
        os.truncate(three.segments()[2], SEGMENT_HEADER.size + records * ONE)
        assert any("signed checkpoint covers 8" in f.what for f in three.findings())


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("records", [0, 1, 2, 3])
def test_a_sealed_segment_cut_at_a_record(three: SmallArchive, number: int, records: int) -> None:
    with changed(three):
        os.truncate(three.segments()[number], SEGMENT_HEADER.size + records * ONE)
        assert number + 1 in {f.segment for f in three.findings()}


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_segment(three: SmallArchive, gone: int) -> None:
    path = three.segments()[gone]
    kept = path.read_bytes()
    path.unlink()
    assert three.findings()
    path.write_bytes(kept)


def swap_records(paths: list[Path]) -> None:
    data, at = paths[0].read_bytes(), SEGMENT_HEADER.size
    paths[0].write_bytes(data[:at] + data[at + ONE : at + 2 * ONE] + data[at : at + ONE] + data[at + 2 * ONE :])


def repeat_record(paths: list[Path]) -> None:
    data, at = paths[2].read_bytes(), SEGMENT_HEADER.size
    paths[2].write_bytes(data + data[at : at + ONE])


def repeat_inside(paths: list[Path]) -> None:
    data, at = paths[0].read_bytes(), SEGMENT_HEADER.size
    paths[0].write_bytes(data[: at + ONE] + data[at : at + ONE] + data[at + 2 * ONE :])


def drop_record(paths: list[Path]) -> None:
    data, at = paths[0].read_bytes(), SEGMENT_HEADER.size
    paths[0].write_bytes(data[:at] + data[at + ONE :])


def swap_segments(paths: list[Path]) -> None:
    first, second = paths[0].read_bytes(), paths[1].read_bytes()
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)


def old_copy(paths: list[Path]) -> None:
    os.truncate(paths[1], SEGMENT_HEADER.size + ONE)


def trailing_garbage(paths: list[Path]) -> None:
    paths[2].write_bytes(paths[2].read_bytes() + bytes(7) + b"\1")


def garbage_behind_footer(paths: list[Path]) -> None:
    paths[0].write_bytes(paths[0].read_bytes() + bytes(8))


@pytest.mark.parametrize(
    ("damage", "segment"),
    [
        (swap_records, 1),
        (repeat_record, 3),
        (repeat_inside, 1),
        (drop_record, 1),
        (swap_segments, 1),
        (swap_segments, 2),
        (old_copy, 2),
        (trailing_garbage, 3),
        (garbage_behind_footer, 1),
    ],
)
def test_moved_bytes(three: SmallArchive, damage: Callable[[list[Path]], None], segment: int) -> None:
    with changed(three):
        damage(three.segments())
        assert segment in {f.segment for f in three.findings()}


def test_a_well_formed_log_that_was_not_signed_is_found(three: SmallArchive, tmp_path: Path) -> None:
    other = SmallArchive(tmp_path / "other")
    log = other.writer(segment_bytes=SEGMENT_HEADER.size + 3 * ONE)
    for n in range(8):
        log.append([entry(n + 100)])
    with changed(three):
        for here, there in zip(three.segments(), other.segments(), strict=True):
            shutil.copy(there, here)
        assert [f.what for f in three.findings()] == ["the first 8 records are not those that were signed"]
    other.close()


def test_every_byte_of_the_checkpoint(three: SmallArchive) -> None:
    path = three.folder.checkpoint
    for offset in range(path.stat().st_size):
        with flipped(path, offset, 1):
            assert three.findings()


def test_the_progress_adds_up_to_all_bytes(three: SmallArchive) -> None:
    done: list[int] = []
    assert list(Verifier(three.folder, progress=done.append).findings()) == []
    assert sum(done) == sum(p.stat().st_size for p in three.segments())


def test_the_summary_counts(three: SmallArchive) -> None:
    verifier = Verifier(three.folder)
    assert list(verifier.findings()) == []
    summary = verifier.summary
    assert (summary.segments, summary.records, summary.bytes, summary.signed_records) == (3, 8, 8 * 40, 8)
