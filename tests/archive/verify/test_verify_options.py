"""Verifying a part, a sample, in several processes and with keys: what is said to be covered is, and no more."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from coffer.archive.format.chain import read_footer
from coffer.archive.format.record import HEADER, Kind, RecordHeader, record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.format.segment import Footer, parse_segment_header
from coffer.archive.reader import LogReader
from coffer.archive.store.source import MemorySource
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint
from coffer.archive.verify import verify
from coffer.archive.verify.report import OpenRecord
from coffer.archive.verify.verify import Finding, Options, Verifier, VerifyLevel
from coffer.keys.errors import InputError, IntegrityError, KeyUnavailableError, ShreddedError
from tests.archive.conftest import SmallArchive, body_of, entry

ONE = record_size(40)
ALL = Options(VerifyLevel.BODIES)


@pytest.fixture
def ten(small: SmallArchive) -> SmallArchive:
    """Ten segments of three records, two checkpoints: after 12 and after all 30."""
    small.fill(12, segment_bytes=SEGMENT_HEADER.size + 3 * ONE)
    small.checkpoint()
    small.fill(18, first=12, segment_bytes=SEGMENT_HEADER.size + 3 * ONE)
    small.checkpoint()
    assert len(small.segments()) == 10
    return small


def found(small: SmallArchive, options: Options) -> list[Finding]:
    return list(Verifier(small.folder, options).findings())


def flip(small: SmallArchive, seq: int, offset: int) -> None:
    """XOR a byte of a record, `offset` from its start."""
    small.damaged = True
    path = small.segments()[seq // 3]
    data = bytearray(path.read_bytes())
    data[SEGMENT_HEADER.size + seq % 3 * ONE + offset] ^= 1
    path.write_bytes(data)


def root_at(small: SmallArchive, size: int) -> bytes:
    """The tree head over the first records, taken from a second, shorter archive."""
    other = SmallArchive(small.folder.path.parent / f"first-{size}")
    other.fill(size, segment_bytes=SEGMENT_HEADER.size + 3 * ONE)
    other.checkpoint()
    signed = read_checkpoint(other.folder)
    assert signed is not None
    return signed.root


def test_every_finding_of_a_badly_damaged_log_in_one_pass(ten: SmallArchive) -> None:
    for seq in (1, 7, 13, 29):
        flip(ten, seq, HEADER.size + 3)
    flip(ten, 19, 30)  # a header: its record is lost to the chain, those behind it are not
    assert [f.seq for f in found(ten, ALL)] == [1, 7, 13, 19, 29]


def test_behind_a_damaged_header_the_tree_is_still_proved(ten: SmallArchive) -> None:
    flip(ten, 4, 60)
    assert {f.segment for f in found(ten, ALL)} == {2}
    data = ten.segments()[1].read_bytes()
    # A footer that lies about the tree is not believed: the next one contradicts it.
    sealed = read_footer(MemorySource(data), len(data))
    assert sealed is not None
    footer, stop = sealed
    lie = Footer(footer.offsets, footer.head, footer.tree_size, (bytes(32), *footer.edge[1:]), footer.time_ms)
    ten.segments()[1].write_bytes(data[:stop] + lie.serialize())
    assert {f.segment for f in found(ten, ALL)} == {2, 3}


def test_threads_find_what_one_pass_finds(ten: SmallArchive) -> None:
    alone, shared = Verifier(ten.folder, ALL), Verifier(ten.folder, replace(ALL, jobs=3, threads=True))
    assert list(alone.findings()) == list(shared.findings()) == []
    assert alone.summary == shared.summary
    for seq in (1, 7, 29):
        flip(ten, seq, HEADER.size + 3)
    assert [f.seq for f in found(ten, replace(ALL, jobs=3, threads=True))] == [1, 7, 29]
    with pytest.raises(InputError):
        Verifier(ten.folder, Options(VerifyLevel.DECRYPT, jobs=3, threads=True), open_records=opener)


@pytest.mark.parametrize("jobs", [2, 4])
def test_several_processes_find_the_same_in_the_same_order(
    ten: SmallArchive, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(jobs)
    for seq in dice.sample(range(30), 6):
        flip(ten, seq, dice.choice((5, 90, 150, 170, ONE - 3)))
    alone = Verifier(ten.folder, ALL)
    expected = list(alone.findings())
    shared = Verifier(ten.folder, Options(jobs=jobs))
    monkeypatch.setattr(verify, "scan", None)  # not in this process
    assert list(shared.findings()) == expected != []
    assert alone.summary == shared.summary


@pytest.mark.parametrize("since", [0, 1, 11, 12, 13, 29, 30])
def test_since_reads_what_came_behind_and_nothing_before(ten: SmallArchive, since: int) -> None:
    verifier = Verifier(ten.folder, Options(since=since))
    assert list(verifier.findings()) == []
    assert verifier.summary.bodies == 30 - since
    assert verifier.summary.first_record <= since
    assert verifier.summary.records == 30 - verifier.summary.first_record <= 30 - since + 3
    for seq in (0, 11, 12, 28):
        flip(ten, seq, HEADER.size)
        assert bool(found(ten, Options(since=since))) == (seq >= since)
        flip(ten, seq, HEADER.size)


@pytest.mark.parametrize("size", [1, 12, 14, 29])
def test_since_checks_the_given_root(ten: SmallArchive, size: int) -> None:
    given = Checkpoint(ten.folder.origin, size, root_at(ten, size))
    assert found(ten, Options(since=given)) == []
    other = Checkpoint(ten.folder.origin, size, bytes(32))
    assert [f.what for f in found(ten, Options(since=other))] == [
        f"the first {size} records are not those that were signed"
    ]


def test_since_beyond_the_end(ten: SmallArchive) -> None:
    with pytest.raises(InputError, match="no checkpoint covers 31"):
        found(ten, Options(since=31))
    beyond = Checkpoint(ten.folder.origin, 40, bytes(32))
    assert [f.what for f in found(ten, Options(since=beyond))] == [
        "the log ends here, but the given checkpoint covers 40 records"
    ]


def test_since_starts_at_the_beginning_where_a_footer_is_damaged(ten: SmallArchive) -> None:
    ten.damaged = True
    path = ten.segments()[4]
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    path.write_bytes(data)
    assert {f.segment for f in found(ten, Options(since=15))} == {5}


def test_a_sample_is_what_its_seed_says(small: SmallArchive) -> None:
    small.fill(400, segment_bytes=20_000)
    small.checkpoint()
    covered = []
    for seed in range(3):
        verifier = Verifier(small.folder, Options(sample=0.25, seed=seed))
        assert list(verifier.findings()) == []
        assert verifier.summary.records == 400
        assert 60 <= verifier.summary.bodies <= 140
        covered.append(read_by(small, Options(sample=0.25, seed=seed)))
        assert read_by(small, Options(sample=0.25, seed=seed)) == covered[-1]
        assert len(covered[-1]) == verifier.summary.bodies
    assert covered[0] != covered[1] != covered[2]


def read_by(small: SmallArchive, options: Options) -> set[int]:
    """The records whose flipped body is found."""
    flip_all_bodies(small)
    seen = {f.seq for f in found(small, options) if f.seq is not None}
    flip_all_bodies(small)
    return seen


def flip_all_bodies(small: SmallArchive) -> None:
    """XOR the first byte of every body."""
    reader = LogReader(small.folder)
    for place, _ in reader.records():
        with small.folder.segment_files.path(place.segment).open("r+b") as file:
            byte = os.pread(file.fileno(), 1, place.offset + HEADER.size)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), place.offset + HEADER.size)
    reader.close()


def test_a_sector_that_cannot_be_read_is_a_finding(ten: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = SEGMENT_HEADER.size + ONE + 30
    real, inode = os.pread, ten.segments()[3].stat().st_ino

    def failing(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == inode and offset <= bad < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    assert next((f.segment, f.what) for f in found(ten, ALL)) == (4, "cannot be read: Input/output error")
    assert {f.segment for f in found(ten, ALL)} == {4}
    monkeypatch.undo()


@contextmanager
def opener() -> Iterator[OpenRecord]:
    """Opens by rules of its own: the test says by the record number what the key floor would say."""

    is_open = True

    def check(header: RecordHeader, read: Callable[[int, int], bytes]) -> bytes:
        assert is_open, "what opens was closed before the last record"
        assert read(0, header.body_len) == body_of(header.seq)
        if header.seq == 5:
            raise IntegrityError("altered inside")
        if header.seq == 6:
            raise ShreddedError("gone")
        if header.seq in {7, 8}:
            raise KeyUnavailableError("no row")
        return b""

    try:
        yield check
    finally:
        is_open = False


@pytest.mark.parametrize("jobs", [1, 3])
def test_decrypting_finds_what_does_not_open_and_counts_what_was_shredded(ten: SmallArchive, jobs: int) -> None:
    verifier = Verifier(ten.folder, Options(VerifyLevel.DECRYPT, jobs=jobs), open_records=opener)
    assert [(f.seq, f.what.split(",")[0]) for f in verifier.findings()] == [
        (5, "the body does not open: altered inside"),
        (7, "the key of 1 records is missing"),
        (8, "the key of 1 records is missing"),
    ]
    assert (verifier.summary.opened, verifier.summary.shredded) == (26, 1)


def test_a_missing_key_that_a_record_says_was_destroyed_is_no_finding(ten: SmallArchive) -> None:
    log = ten.writer()
    for gone in (7, 8):
        told = entry(gone)
        made = entry(100 + gone)
        log.append([type(told)(Kind.SHRED_SCHEDULED, told.study_key_id, 0, made.content_id, made.body)])
    log.close()
    ten.checkpoint()

    @contextmanager
    def lacking() -> Iterator[OpenRecord]:
        def check(header: RecordHeader, read: Callable[[int, int], bytes]) -> bytes:
            if header.seq in {7, 8}:
                raise KeyUnavailableError("no row")
            return b""

        yield check

    verifier = Verifier(ten.folder, Options(VerifyLevel.DECRYPT), open_records=lacking)
    assert list(verifier.findings()) == []
    assert verifier.summary.shredded == 2


@pytest.mark.parametrize("wrong", ["first_seq", "prev_leaf"])
def test_an_empty_segment_that_belongs_elsewhere(small: SmallArchive, wrong: str) -> None:
    """A stop may leave a segment that is a header only: nothing in it but the header can tell."""
    small.fill(4, segment_bytes=SEGMENT_HEADER.size + 3 * ONE)
    small.damaged = True
    path = small.segments()[1]
    path.write_bytes(path.read_bytes()[: SEGMENT_HEADER.size])
    assert small.findings() == []
    header = parse_segment_header(path.read_bytes())
    other = replace(header, first_seq=4) if wrong == "first_seq" else replace(header, prev_leaf=bytes(32))
    path.write_bytes(other.serialize())
    assert [f.what for f in small.findings()] == ["the segment header belongs to another place or archive"]


def test_archive_json_has_one_form(ten: SmallArchive) -> None:
    path = ten.folder.path / "archive.json"
    text = path.read_bytes()
    ten.damaged = True
    path.write_bytes(text.replace(b"\n ", b"\n  ", 1))
    assert [f.what for f in found(ten, ALL)] == ["archive.json was altered"]
