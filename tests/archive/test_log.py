"""Appending: durable on return, shared syncs, rolling, the reserve, and a full stop after any failed write."""

import contextlib
import os
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from coffer.archive.format.entry import Entry, Position, SealedFile
from coffer.archive.format.merkle import leaf_hash
from coffer.archive.format.record import Kind, genesis_hash, record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import UnavailableError
from tests.archive.conftest import FIRST_MS, SIGNER, FaultyCalls, SmallArchive, append, body_of, entry

ONE = record_size(40)
SMALL = SEGMENT_HEADER.size + 3 * ONE


def test_positions_and_chain(small: SmallArchive) -> None:
    places = small.fill(3)
    assert places == [Position(0, n, 1, SEGMENT_HEADER.size + n * ONE, 40) for n in range(3)]
    reader = LogReader(small.folder)
    head = genesis_hash(small.folder.archive_id)
    for n, (_, header) in enumerate(reader.records()):
        assert header.prev_leaf == head
        assert header.content_id == entry(n).content_id
        assert header.body_sha256 == sha256(body_of(n)).digest()
        head = leaf_hash(header.serialize())
    reader.close()


def test_it_returns_only_after_the_sync(small: SmallArchive, faulty: FaultyCalls) -> None:
    log = small.writer(calls=faulty)
    for n in range(5):
        faulty.made.clear()
        log.append([entry(n), entry(n + 100)])
        assert faulty.made == ["writev", "writev", "fdatasync"]


def test_many_appends_from_eight_threads(small: SmallArchive) -> None:
    log = small.writer(segment_bytes=4096)
    places: dict[int, Position] = {}

    def append_some(worker: int) -> None:
        for n in range(worker, 200, 8):
            (places[n],) = append(log, [entry(n, n)])

    threads = [threading.Thread(target=append_some, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert log.next_seq == 200
    reader = LogReader(small.folder)
    assert all(reader.read_body(places[n]) == body_of(n, n) for n in range(200))
    reader.close()


def test_segments_roll_and_each_holds_at_least_one_record(small: SmallArchive) -> None:
    log = small.writer(segment_bytes=SMALL)
    places = [append(log, [entry(n)])[0] for n in range(7)]
    assert [p.segment for p in places] == [1, 1, 1, 2, 2, 2, 3]
    (large,) = append(log, [entry(8, 5000)])
    assert large.segment == 4
    assert append(log, [entry(9)])[0].segment == 5
    assert small.folder.segment_files.numbers() == [1, 2, 3, 4, 5]


def test_a_group_lies_in_one_segment(small: SmallArchive) -> None:
    log = small.writer(segment_bytes=SMALL)
    assert [p.segment for p in append(log, [entry(n) for n in range(5)])] == [1, 1, 1, 1, 1]
    assert [p.segment for p in append(log, [entry(5)])] == [2]
    assert [p.segment for p in append(log, [entry(6), entry(7), entry(8)])] == [3, 3, 3]


def test_record_times_grow_whatever_the_clock_says(small: SmallArchive) -> None:
    times = iter([FIRST_MS, FIRST_MS])  # when the segment began, and its first record
    log = LogWriter(small.folder, sign=SIGNER.sign_statement, now_ms=lambda: next(times, FIRST_MS - 5000))
    log.append([entry(0)])
    log.append([entry(1), entry(2)])
    log.close()
    reader = LogReader(small.folder)
    first, *others = [header.time_ms for _, header in reader.records()]
    reader.close()
    assert others == [first + 1, first + 2]


def test_a_sealed_file_is_copied_and_each_piece_is_told(small: SmallArchive, tmp_path: Path) -> None:
    body = body_of(1, 3_000_000)
    path = tmp_path / "sealed"
    path.write_bytes(body)
    log, pieces = small.writer(), list[int]()
    sealed = SealedFile(path, len(body), sha256(body).digest(), lambda: pieces.append(1))
    (place,) = append(log, [Entry(1, bytes(16), 0, bytes(32), sealed)])
    log.append([entry(2)])
    reader = LogReader(small.folder)
    assert reader.read_body(place) == body
    assert len(pieces) > 1  # a watchdog hears of it more often than once per object
    reader.close()


def _other(what: str, path: Path) -> None:
    """Put something else than the file that was told under its name."""
    if what == "a shorter file":
        path.write_bytes(bytes(9))
    elif what == "another hash":
        path.write_bytes(bytes(9) + b"x")
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a link":
        path.with_name("aim").write_bytes(bytes(10))
        path.symlink_to("aim")
    elif what == "a second name":
        path.with_name("aim").write_bytes(bytes(10))
        path.hardlink_to(path.with_name("aim"))
    elif what == "a folder":
        path.mkdir()
    else:
        assert what == "nothing"


@pytest.mark.parametrize("segment_bytes", [SMALL, 1 << 30])  # the first is full: the group begins a new one
@pytest.mark.parametrize("before", [0, 1])  # records of the group in front of it
@pytest.mark.parametrize(
    "what", ["nothing", "a shorter file", "another hash", "a pipe", "a link", "a second name", "a folder"]
)
def test_a_sealed_file_that_is_not_what_was_said_leaves_nothing_and_stops_nobody(
    small: SmallArchive, tmp_path: Path, what: str, before: int, segment_bytes: int
) -> None:
    path = tmp_path / "sealed"
    _other(what, path)
    log = small.writer(segment_bytes=segment_bytes)
    log.append([entry(n) for n in range(3)])
    sealed = Entry(1, bytes(16), 0, bytes(32), SealedFile(path, 10, sha256(bytes(10)).digest()))
    with pytest.raises(UnavailableError, match="sealed body"):
        log.append([*(entry(3, 100) for _ in range(before)), sealed])
    assert log.next_seq == 3
    (place,) = append(log, [entry(4)])
    assert place.seq == 3
    log.close()
    assert small.writer(segment_bytes=segment_bytes).next_seq == 4
    assert not list(Verifier(small.folder).findings())


def test_a_group_with_a_sealed_file_lies_in_one_segment(small: SmallArchive, tmp_path: Path) -> None:
    path = tmp_path / "sealed"
    path.write_bytes(bytes(5000))
    log = small.writer(segment_bytes=SMALL)
    sealed = Entry(1, bytes(16), 0, bytes(32), SealedFile(path, 5000, sha256(bytes(5000)).digest()))
    places = append(log, [entry(0)]) + append(log, [entry(1, 100), sealed, entry(2, 100)]) + append(log, [entry(3)])
    assert [place.segment for place in places] == [1, 2, 2, 2, 3]
    log.close()
    assert small.writer(segment_bytes=SMALL).next_seq == 5
    assert not list(Verifier(small.folder).findings())


@pytest.mark.parametrize("field", ["study_key_id", "content_id", "kind", "flags", "least_ms"])
def test_an_entry_that_fits_no_header_stops_nobody_else(small: SmallArchive, field: str) -> None:
    values = {"kind": 1, "study_key_id": bytes(16), "flags": 0, "content_id": bytes(32), "least_ms": 1}
    values[field] = bytes(3) if isinstance(values[field], bytes) else -1
    log = small.writer()
    with pytest.raises(ValueError, match="header"):
        log.append([Entry(**values, body=b"x")])  # type: ignore[arg-type]
    assert append(log, [entry(1)])[0].seq == 0


def test_a_volume_at_its_reserve_takes_nothing_and_heals(small: SmallArchive, free: list[int]) -> None:
    log = small.writer(reserve_bytes=1000)
    before, free[0] = small.files(), 1000
    for refused in (log.require_writable, lambda: log.append([entry(1)])):
        with pytest.raises(UnavailableError, match="reserve"):
            refused()
    assert small.files() == before
    free[0] = 2 << 20
    assert append(log, [entry(1)])[0].seq == 0


def test_events_use_the_reserve_and_objects_with_them_do_not(small: SmallArchive, free: list[int]) -> None:
    log = small.writer(reserve_bytes=4 << 20)
    event = replace(entry(2), kind=Kind.STATE)
    free[0] = 2 << 20
    assert log.accepts_events()
    assert append(log, [event])[0].seq == 0
    with pytest.raises(UnavailableError, match="reserve"):
        log.append([event, entry(1)])
    before, free[0] = small.files(), 60_000
    assert not log.accepts_events()
    with pytest.raises(UnavailableError, match="full"):
        log.append([event])
    assert small.files() == before
    free[0] = 8 << 20
    assert append(log, [event, entry(1)])[0].seq == 1


@pytest.mark.parametrize("segment_bytes", [SMALL, 1 << 30])  # the first fills segments up, whose footers count too
def test_a_group_that_does_not_fit_above_the_reserve_is_refused_whole(
    small: SmallArchive, free: list[int], segment_bytes: int, tmp_path: Path
) -> None:
    log = small.writer(reserve_bytes=1000, segment_bytes=segment_bytes)
    log.append([entry(0)])
    before = small.files()
    sealed = SealedFile(tmp_path / "sealed", 3_000_000, sha256(bytes(3_000_000)).digest())
    sealed.path.write_bytes(bytes(3_000_000))
    group = [Entry(1, bytes(16), 0, bytes(32), sealed), *(entry(n, 3000) for n in range(1, 40))]
    refused, accepted = 1000, 1 << 30
    while accepted - refused > 1:
        free[0] = (refused + accepted) // 2
        with contextlib.suppress(UnavailableError):
            log._space.require(log._needed(group))
            accepted = free[0]
            continue
        refused = free[0]
    free[0] = refused
    with pytest.raises(UnavailableError, match="reserve"):
        log.append(group)
    assert small.files() == before
    log.require_writable()
    assert append(log, [entry(50)])[0].seq == 1
    before, free[0] = small.files(), log._needed(group) + 1000 + (64 << 10)
    log.append(group)
    grown = sum(map(len, small.files().values())) - sum(map(len, before.values()))
    assert 3_000_000 + 39 * 3000 < grown <= free[0] - 1000 - (64 << 10)


def append_until_failure(log: LogWriter, first: int) -> int:
    """Append one by one until an error; how many were acknowledged."""
    for n in range(first, first + 10):
        try:
            log.append([entry(n)])
        except UnavailableError:
            return n
    raise AssertionError("the fault was not met")


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("step", range(40))
def test_any_failed_step_stops_the_log_and_opening_again_goes_on(
    small: SmallArchive, faulty: FaultyCalls, step: int, *, after_effect: bool
) -> None:
    log = small.writer(segment_bytes=SMALL, calls=faulty)
    log.append([entry(0)])
    faulty.made.clear()
    faulty.arm(step, after_effect=after_effect)
    try:
        acknowledged = append_until_failure(log, 1)
    except AssertionError:
        assert step > 20 or faulty.made[step] in {"close", "unlink"}
        return
    calls_made = len(faulty.made)
    with pytest.raises(UnavailableError):
        log.append([entry(99)])
    with pytest.raises(UnavailableError):
        log.checkpoint(small.sign)
    assert len(faulty.made) == calls_made
    log.close()
    again = small.writer(segment_bytes=SMALL)
    assert again.next_seq in {acknowledged, acknowledged + 1}
    reader = LogReader(small.folder)
    headers = [h for _, h in reader.records()]
    assert [h.content_id for h in headers[:acknowledged]] == [entry(n).content_id for n in range(acknowledged)]
    reader.close()
    again.append([entry(50)])


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("step", range(7))
def test_a_failed_checkpoint_leaves_the_old_or_the_new(
    small: SmallArchive, faulty: FaultyCalls, step: int, *, after_effect: bool
) -> None:
    log = small.writer(calls=faulty)
    log.append([entry(0)])
    log.checkpoint(small.sign)
    log.append([entry(1)])
    faulty.arm(step, after_effect=after_effect)
    with contextlib.suppress(UnavailableError):
        log.checkpoint(small.sign)
    assert small.writer().signed_size in {1, 2}


def test_a_checkpoint_is_made_once_for_each_size(small: SmallArchive) -> None:
    log = small.writer()
    made = log.checkpoint(small.sign)
    assert made is None
    log.append([entry(0)])
    made = log.checkpoint(small.sign)
    assert made is not None
    assert made.size == 1
    assert log.checkpoint(small.sign) is None
    assert log.signed_size == small.writer().signed_size == 1
