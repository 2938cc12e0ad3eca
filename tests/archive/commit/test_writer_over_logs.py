"""The writer over any log: the same records wherever they go, and an answer to everybody though calls are lost."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coffer.archive.commit.commit_log import CommitLog
from coffer.archive.format.record import record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import FencedError, UnavailableError
from coffer.keys.lease.epoch_authority import Lease
from tests.archive.commit.faulty import FaultyLog, Patient, drawn
from tests.archive.commit.places import Place, folder_place, memory_place
from tests.archive.conftest import FIRST_MS, ORIGIN, SIGNER, append, body_of, entry
from tests.archive.forge import begun_body

ONE = record_size(40)
SMALL = SEGMENT_HEADER.size + 3 * ONE
BEGUN = begun_body(1)


def clock() -> Callable[[], int]:
    times: Iterator[int] = iter(range(FIRST_MS, FIRST_MS + 10**9, 1000))
    return lambda: next(times)


def writer(
    place: Place,
    log: CommitLog,
    lease: Lease | None = None,
    *,
    sign: Callable[[bytes], bytes] = SIGNER.sign_statement,
) -> LogWriter:
    """A writer whose segments are full with three small records."""
    lease = place.lease() if lease is None else lease
    return LogWriter(place.folder, sign=sign, now_ms=clock(), segment_bytes=SMALL, log=log, lease=lease)


def fill(log: LogWriter) -> list[tuple[int, int]]:
    """Groups of all kinds; returns number and segment of each record."""
    places = append(log, [entry(0), entry(1)])
    places += append(log, [entry(2), entry(3)])  # does not fit behind the first two
    places += append(log, [entry(4, 5000)])  # larger than a segment
    places += append(log, [entry(n) for n in range(5, 12)])  # so are these, together
    places.append(log.begin_epoch(BEGUN))
    places += append(log, [entry(13)])
    return [(each.seq, each.segment) for each in places]


EXPECTED = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), *((n, 4) for n in range(5, 12)), (12, 5), (13, 5)]


def test_all_groups_lie_in_one_segment_each(place: Place) -> None:
    log = writer(place, place.log())
    assert fill(log) == EXPECTED
    made = log.checkpoint(lambda text: SIGNER.sign_note(ORIGIN, text))
    assert made is not None
    assert made.size == log.next_seq == 14
    log.append([entry(14)])
    log.close()
    assert list(Verifier(place.folder).findings()) == []
    reader = LogReader(place.folder)
    assert reader.read_body(next(iter(reader.records(4)))[0]) == body_of(4, 5000)
    reader.close()


def test_the_bytes_are_the_same_everywhere(tmp_path: Path) -> None:
    kept = []
    for made in (folder_place(tmp_path / "a"), memory_place(tmp_path / "b")):
        log = writer(made, made.log())
        fill(log)
        log.close()
        kept.append(made.segments())
    assert kept[0] == kept[1]


def test_the_writer_needs_no_answers_if_it_can_ask(place: Place) -> None:
    log = writer(place, FaultyLog(place.log(), lambda name: "after" if name in {"append", "seal"} else ""))
    assert fill(log) == EXPECTED
    log.close()
    place.require_sound()


@pytest.mark.parametrize("call", ["append", "seal"])
def test_a_call_that_never_arrived_fails_its_group_alone(place: Place, call: str) -> None:
    lost: set[str] = set()
    log = writer(place, FaultyLog(place.log(), lambda name: "before" if name in lost else ""))
    log.append([entry(0), entry(1)])
    lost.add(call)
    with pytest.raises(UnavailableError, match=r"not appended|no segment was begun"):
        log.append([entry(2), entry(3)])
    lost.clear()
    assert append(log, [entry(4), entry(5)])[0].seq == 2
    log.close()
    assert place.content_ids() == [entry(n).content_id for n in (0, 1, 4, 5)]
    place.require_sound()


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_doubt_that_nobody_ends_stops_the_writer(place: Place, fault: str) -> None:
    lost: dict[str, str] = {}
    lease = place.lease()
    log = writer(place, FaultyLog(place.log(), lambda name: lost.get(name, "")), lease)
    log.append([entry(0)])
    lost.update(append=fault, outcome="before")
    with pytest.raises(UnavailableError, match="no answer"):
        log.append([entry(1)])
    lost.clear()
    with pytest.raises(UnavailableError, match="stopped"):
        log.append([entry(2)])
    log.close()
    place.authority.release(lease)
    again = writer(place, place.log())
    assert again.next_seq == (2 if fault == "after" else 1)
    again.close()


def test_an_epoch_that_could_not_begin_stops_the_writer(place: Place) -> None:
    lost: set[str] = set()
    log = writer(place, FaultyLog(place.log(), lambda name: "before" if name in lost else ""))
    log.append([entry(0)])
    lost.add("append")
    with pytest.raises(UnavailableError, match="not appended"):
        log.begin_epoch(BEGUN)
    lost.clear()
    with pytest.raises(UnavailableError, match="stopped"):
        log.append([entry(1)])
    log.close()


def test_a_signature_that_fails_costs_its_group_alone(place: Place) -> None:
    fails = [False]

    def sign(statement: bytes) -> bytes:
        if fails[0]:
            raise UnavailableError("the token does not answer")
        return SIGNER.sign_statement(statement)

    log = writer(place, place.log(), sign=sign)
    log.append([entry(0)])
    fails[0] = True
    with pytest.raises(UnavailableError, match="token"):
        log.append([entry(1)])
    fails[0] = False
    assert append(log, [entry(2)])[0].seq == 1
    log.close()
    place.require_sound()


def test_a_writer_that_was_displaced_stops(tmp_path: Path) -> None:
    place = memory_place(tmp_path / "archive")
    zombie = writer(place, place.log())
    zombie.append([entry(0)])
    other = writer(place, place.log())
    for _ in range(2):
        with pytest.raises(UnavailableError, match="taken"):
            zombie.append([entry(1)])
    with pytest.raises(FencedError):
        zombie.checkpoint(lambda text: SIGNER.sign_note(ORIGIN, text))
    assert append(other, [entry(2)])[0].seq == 1
    place.require_sound()


def test_of_rivals_that_displace_each_other_every_acknowledged_group_stays(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    place = memory_place(tmp_path / "archive")
    acknowledged: list[bytes] = []
    done, lock = [0], threading.Lock()

    def rival(number: int) -> None:
        log = Patient(drawn(place.log(), seed + number))
        for turn in range(100):
            if done[0] >= 60:
                return
            try:
                lease = place.lease()
                end = log.take(lease).end
                for count in range(4):
                    made = place.group(end, *(entry(1000 * number + 10 * turn + n) for n in range(count + 1)))
                    end = log.append(lease, end, made)
                    with lock:
                        acknowledged.append(made.head)
                        done[0] += 1
            except FencedError:
                time.sleep(0.001 * number)

    threads = [threading.Thread(target=rival, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    heads = [group.head for group in place.log().tail()]
    assert len(acknowledged) >= 30
    assert set(acknowledged) <= set(heads)
    assert len(heads) == len(set(heads))
    place.require_sound()
