"""What every commit log promises: in a folder, in memory, and through a connection that loses calls and answers."""

from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from coffer.archive.commit.commit_log import Body, CommitLog, Group, LogEnd
from coffer.archive.commit.hashed_entry import HashedEntry
from coffer.archive.format.entry import Entry
from coffer.archive.format.record import Kind
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.store.sealed_file import SourceError, pieces
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.keys.errors import FencedError, HistoryError, IntegrityError, OutcomeUnknownError
from tests.archive.commit.faulty import FaultyLog
from tests.archive.commit.places import Place, facts, folder_place
from tests.archive.conftest import ORIGIN, FaultyCalls, body_of, entry
from tests.archive.forge import begun_body


def whole(body: Body) -> bytes:
    return b"".join(body()) if callable(body) else bytes(body)


def bodies(groups: Iterator[Group]) -> list[list[bytes]]:
    return [[whole(record.body) for record in group.records] for group in groups]


def stream(data: bytes, *, says: bytes | None = None) -> HashedEntry:
    """An entry whose body is a stream of `data`, and is said to be `says`."""
    digest = sha256(data if says is None else says).digest()
    read = lambda offset, length: data[offset : offset + length]  # noqa: E731
    made = Entry(Kind.OBJECT, bytes(16), 0, sha256(data).digest(), b"")
    return HashedEntry(made, partial(pieces, read, len(data), digest), len(data), digest)


def epoch_begun() -> Entry:
    body = begun_body(1)
    return Entry(Kind.LOG_EPOCH, bytes(16), 0, sha256(body).digest(), body)


def test_an_empty_log_is_taken_with_a_segment_to_append_to(place: Place, log: CommitLog) -> None:
    end, cut_bytes, cut_records = log.take(place.lease())
    assert (end.tip.next_seq, end.epoch, end.segment, end.offset, end.records) == (0, 0, 1, SEGMENT_HEADER.size, 0)
    assert (cut_bytes, cut_records, list(log.tail())) == (0, 0, [])
    assert len(place.segments()) == 1


def test_groups_are_there_in_order_as_soon_as_they_are_appended(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    end = log.take(lease).end
    numbers = [[0], [1, 2, 3], [4, 5]]
    for count, group in enumerate(numbers, 1):
        made = place.group(end, *map(entry, group))
        end = log.append(lease, end, made)
        assert (end.tip.next_seq, end.tip.head, end.records) == (group[-1] + 1, made.head, group[-1] + 1)
        assert bodies(log.tail()) == [[body_of(n) for n in each] for each in numbers[:count]]
        assert place.content_ids() == [entry(n).content_id for n in range(group[-1] + 1)]
        assert len(place.segments()[0]) == end.offset
    assert [group.first_seq for group in log.tail(1)] == [1, 4]
    assert [group.first_seq for group in log.tail(2)] == [4]
    assert list(log.tail(6)) == []
    *_, last = log.tail()
    assert facts(end._replace(chain=last.chain)) == facts(end)
    place.require_sound()


def test_whoever_takes_the_log_finds_what_was_appended(place: Place, log: CommitLog) -> None:
    first = place.lease()
    end = log.take(first).end
    end = log.append(first, end, place.group(end, entry(0), entry(1)))
    place.authority.release(first)
    again, lease = place.log(), place.lease()
    found = again.take(lease)
    assert (facts(found.end), *found[1:]) == (facts(end), 0, 0)
    again.append(lease, found.end, place.group(found.end, entry(2)))
    again.close()
    assert len(place.content_ids()) == 3
    place.require_sound()


def test_a_group_is_appended_once(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    at = log.take(lease).end
    made = place.group(at, entry(0), entry(1))
    end = log.append(lease, at, made)
    before = place.segments()
    assert log.append(lease, at, made) == log.append(lease, end, made) == end
    assert place.segments() == before


@pytest.mark.parametrize("fault", ["before", "after"])
def test_whoever_has_no_answer_asks(place: Place, fault: str) -> None:
    lost = {"append": fault, "seal": fault}
    log = FaultyLog(place.log(), lambda name: lost.get(name, ""))
    lease = place.lease()
    at = log.take(lease).end
    made = place.group(at, entry(0), entry(1))
    with pytest.raises(OutcomeUnknownError):
        log.append(lease, at, made)
    found = log.outcome(lease, made.head)
    assert bodies(log.tail()) == ([[body_of(0), body_of(1)]] if fault == "after" else [])
    if fault == "after":
        assert found is not None
        assert found.tip == (0, 2, made.head)
    else:
        assert found is None
    at = at if found is None else found
    with pytest.raises(OutcomeUnknownError):
        log.seal(lease, at)
    sealed = log.outcome(lease, at.chain.head)
    assert sealed is not None
    assert sealed.segment - at.segment == (fault == "after" and at.records > 0)
    lost.clear()
    log.append(lease, sealed, place.group(sealed, entry(2)))
    log.close()
    place.require_sound()


@pytest.mark.parametrize("junk", [b"x" * 500, b"CFRC" + bytes(300), bytes(700)], ids=["text", "magic", "zeros"])
def test_a_torn_rest_is_set_aside(place: Place, log: CommitLog, junk: bytes) -> None:
    lease = place.lease()
    end = log.take(lease).end
    end = log.append(lease, end, place.group(end, entry(0)))
    place.authority.release(lease)
    place.append_raw(junk)
    again, second = place.log(), place.lease()
    is_room = not junk.strip(b"\0")
    found = again.take(second)
    assert (facts(found.end), *found[1:]) == (facts(end), 0 if is_room else len(junk), 0)
    assert list(place.kept().values()) == ([] if is_room else [junk])
    assert len(place.segments()[0]) == end.offset
    again.append(second, end, place.group(end, entry(1)))
    again.close()
    place.require_sound()


def test_a_group_that_is_not_whole_goes_as_a_whole(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    end = log.take(lease).end
    end = log.append(lease, end, place.group(end, entry(0)))
    log.append(lease, end, place.group(end, entry(1), entry(2), entry(3)))
    torn = place.segments()[0][end.offset : -5]
    place.authority.release(lease)
    place.cut_raw(5)
    again, second = place.log(), place.lease()
    found = again.take(second)
    assert (facts(found.end), *found[1:]) == (facts(end), len(torn), 3)
    assert list(place.kept().values()) == [torn]
    assert bodies(again.tail()) == [[body_of(0)]]
    again.close()
    place.require_sound()


def test_what_is_refused_changes_nothing(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    end = log.take(lease).end
    log.append(lease, end, place.group(end, entry(0)))
    place.authority.release(lease)
    place.append_raw(b"torn")
    before, second = place.segments(), place.lease()
    ends: list[LogEnd] = []

    def objects(found: LogEnd) -> None:
        ends.append(found)
        raise HistoryError("not this one")

    other_root = Checkpoint(ORIGIN, 1, bytes(32))
    for told, accept, says in (
        ((), objects, "not this one"),
        ((other_root,), None, "not those that were signed"),
        ((Checkpoint(ORIGIN, 2, bytes(32)),), None, "ends at record 1"),
    ):
        again = place.log()
        with pytest.raises(HistoryError, match=says):
            again.take(second, lambda told=told: told, accept)
        with pytest.raises(FencedError):
            again.append(second, end, place.group(end, entry(1)))
        again.close()
    assert [each.tip.next_seq for each in ends] == [1]
    assert (place.segments(), place.kept()) == (before, {})


def test_segments_begin_when_they_are_told_to(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    end = log.take(lease).end
    assert log.seal(lease, end).segment == 1  # it holds no record: it is begun anew
    end = log.append(lease, end, place.group(end, entry(0), entry(1)))
    sealed = log.seal(lease, end)
    assert (sealed.segment, sealed.offset, sealed.records, sealed.epoch) == (2, SEGMENT_HEADER.size, 0, 0)
    assert facts(sealed)[:5] == facts(end)[:5]
    large = [entry(n, 300_000) for n in range(2, 7)]  # whatever its size, it lies in one segment
    end = log.append(lease, sealed, place.group(sealed, *large))
    assert (end.segment, end.records) == (2, 5)
    assert [group.first_seq for group in log.tail()] == [0, 2]
    assert [group.first_seq for group in log.tail(2)] == [2]
    place.authority.release(lease)
    again = place.log()
    assert facts(again.take(place.lease()).end) == facts(end)
    again.close()
    place.require_sound()


def test_a_log_that_ends_with_a_footer_gets_a_segment(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    end = log.take(lease).end
    end = log.append(lease, end, place.group(end, entry(0)))
    log.seal(lease, end)
    place.authority.release(lease)
    place.drop_last()  # the second segment was not begun
    again, second = place.log(), place.lease()
    found = again.take(second).end
    assert (found.segment, found.records, found.tip) == (2, 0, end.tip)
    again.append(second, found, place.group(found, entry(1)))
    again.close()
    place.require_sound()


def test_an_epoch_begins_with_its_first_group(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    end = log.take(lease).end
    end = log.append(lease, end, place.group(end, entry(0)))
    log.seal(lease, end, 1)
    place.authority.release(lease)
    again, second = place.log(), place.lease()
    found = again.take(second).end
    assert (found.epoch, found.segment, found.tip) == (0, 2, end.tip)
    begun = again.seal(second, found, 1)
    assert (begun.epoch, begun.segment, begun.records) == (1, 2, 0)
    end = again.append(second, begun, place.group(begun, epoch_begun(), entry(1)))
    again.close()
    place.authority.release(second)
    third = place.log()
    assert facts(third.take(place.lease()).end) == facts(end)
    third.close()
    place.require_sound()


def test_a_body_that_is_a_stream_is_copied_and_streamed_again(place: Place, log: CommitLog) -> None:
    lease, data = place.lease(), body_of(1, 2_500_000)
    end = log.take(lease).end
    end = log.append(lease, end, place.group(end, entry(0), stream(data), stream(b"short")))
    ((first, large, short),) = bodies(log.tail())
    assert (first, large == data, short) == (body_of(0), True, b"short")
    place.require_sound()


def test_a_stream_that_lies_leaves_nothing(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    end = log.take(lease).end
    end = log.append(lease, end, place.group(end, entry(0)))
    before = place.segments()
    with pytest.raises(SourceError, match="SHA-256"):
        log.append(lease, end, place.group(end, entry(1), stream(bytes(3_000_000), says=b"other"), entry(2)))
    assert place.segments() == before
    end = log.append(lease, end, place.group(end, entry(3)))
    assert bodies(log.tail()) == [[body_of(0)], [body_of(3)]]
    place.require_sound()


@pytest.mark.parametrize("what", ["records change places", "a body is altered"])
def test_the_tail_of_a_damaged_log_is_not_passed_on(place: Place, log: CommitLog, what: str) -> None:
    lease = place.lease()
    end = log.take(lease).end
    for n in range(2):
        end = log.append(lease, end, place.group(end, entry(n)))
    whole = place.segments()[0]
    half = (len(whole) - SEGMENT_HEADER.size) // 2
    first, second = whole[-2 * half : -half], whole[-half:]
    place.cut_raw(2 * half)
    if what == "records change places":
        place.append_raw(second + first)
    else:
        place.append_raw(first + second.replace(body_of(1), body_of(2)))
    with pytest.raises(IntegrityError):
        list(log.tail())


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("step", range(5))
def test_a_folder_in_doubt_is_taken_again(
    tmp_path: Path, faulty: FaultyCalls, step: int, *, after_effect: bool
) -> None:
    place = folder_place(tmp_path / "archive", faulty)
    log, lease = place.log(), place.lease()
    end = log.take(lease).end
    end = log.append(lease, end, place.group(end, entry(0)))
    made = place.group(end, entry(1), entry(2))
    faulty.arm(step, after_effect=after_effect)
    try:
        end = log.append(lease, end, made)
        log.seal(lease, end)
    except OutcomeUnknownError as error:
        assert "injected" in str(error) or "Input/output" in str(error)  # noqa: PT017
    else:
        pytest.fail("the fault was not met")
    for call in (lambda: log.append(lease, end, made), lambda: log.outcome(lease, made.head)):
        with pytest.raises(OutcomeUnknownError):
            call()
    found = log.take(lease).end
    assert found.tip in {(0, 1, place.group(end, entry(1)).chain.head), end.tip, (0, 3, made.head)}
    assert (log.outcome(lease, made.head) is not None) == (found.chain.head == made.head)
    log.append(lease, found, place.group(found, entry(4)))
    log.close()
    place.require_sound()
