"""Which snapshots and pieces are removed, and that a backup and a prune never work at the same time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from coffer.archive.copies.memory_target import MemoryTarget
from coffer.archive.copies.prune import GRACE_MS, plan, prune
from coffer.archive.copies.retention import Keep, kept
from coffer.archive.copies.snapshot import Snapshot, new_id
from coffer.archive.copies.turns import LEASE_MS, Turn
from coffer.keys.errors import InputError, IntegrityError, LockedError, UnavailableError
from tests.archive.copies.conftest import BackedUp, snapshot_id
from tests.archive.copies.test_backup import found_in

ONE = Keep(last=1, daily=0, weekly=0, monthly=0)


def made(days_ago: float, findings: int = 0) -> Snapshot:
    when = datetime(2026, 12, 1, 2, tzinfo=UTC) - timedelta(days=days_ago)
    own = new_id(when.strftime("%Y%m%dT%H%M%SZ"), bytes(6))
    return Snapshot(own, bytes(16), int(when.timestamp() * 1000), 0, bytes(32), False, findings, 4096, (), ())


def days(snapshots: list[Snapshot], keep: Keep) -> list[int]:
    stay = kept(snapshots, keep)
    return [number for number, each in enumerate(snapshots) if each.id in stay]


def test_the_last_of_each_period_stays() -> None:
    nights = [made(n) for n in range(400)]
    assert days(nights, Keep(3, 0, 0, 0)) == [0, 1, 2]
    assert days(nights, Keep(0, 5, 0, 0)) == [0, 1, 2, 3, 4]
    assert days(nights, Keep(0, 0, 3, 0)) == [0, 2, 9]  # 2026-12-01 is a Tuesday, 2 days before it a Sunday
    assert days(nights, Keep(0, 0, 0, 3)) == [0, 1, 31]
    twice = [made(0), made(0.01), made(1)]
    assert days(twice, Keep(0, 2, 0, 0)) == [0, 2]


def test_a_snapshot_with_findings_counts_for_nothing_and_stays_until_a_whole_one() -> None:
    assert days([made(0, 1), made(1, 1), made(2), made(3, 1), made(4)], Keep(1, 0, 0, 0)) == [0, 1, 2]


def test_fewer_than_the_minimum_are_refused() -> None:
    nights = [made(n) for n in range(5)]
    with pytest.raises(InputError):
        plan(nights, ONE, 2)
    assert len(plan(nights, ONE, 1).go) == 4
    assert plan(nights[:1], ONE, 3).go == ()


def pruned(backed: BackedUp, number: int) -> tuple[int, int]:
    with Turn(backed.shelf, "prune", snapshot_id(number)) as turn:
        done = prune(backed.shelf, ONE, 1, turn)
    return len(done.snapshots), done.pieces


def test_what_a_snapshot_needs_is_never_removed(backed: BackedUp, memory: MemoryTarget) -> None:
    backed.run()
    for number in range(3):
        backed.archive.fill(2, first=20 + 2 * number, size=2500, segment_bytes=10_000)
        backed.archive.checkpoint()
        last = backed.run()
        memory.now_ms += 1000
        pruned(backed, number)
        memory.now_ms += GRACE_MS
    before = len(backed.shelf.pieces())
    pruned(backed, 4)
    assert before - len(backed.shelf.pieces()) > 0
    assert backed.shelf.ids() == [last.id]
    assert found_in(backed.shelf, last) == []


def test_a_piece_goes_in_two_steps(backed: BackedUp, memory: MemoryTarget) -> None:
    backed.run()
    backed.archive.fill(2, first=20, size=2500)
    backed.archive.checkpoint()
    backed.run()
    memory.now_ms = 1000
    assert pruned(backed, 1) == (1, 0)
    memory.now_ms += GRACE_MS - 1
    assert pruned(backed, 2) == (0, 0)
    memory.now_ms += 1
    assert pruned(backed, 3)[1] > 0
    assert pruned(backed, 4) == (0, 0)
    assert memory.list(backed.shelf.under("spare/")) == []


def test_a_piece_that_is_needed_again_stays(backed: BackedUp, memory: MemoryTarget) -> None:
    first = backed.run()
    backed.archive.fill(2, first=20, size=2500)
    backed.archive.checkpoint()
    second = backed.run()
    pruned(backed, 1)
    memory.put(backed.shelf.snapshot_name(first.id), first.serialize())
    memory.remove(backed.shelf.snapshot_name(second.id))
    memory.now_ms += GRACE_MS
    pruned(backed, 2)
    assert found_in(backed.shelf, first) == []


def test_nothing_is_removed_while_a_list_cannot_be_read(backed: BackedUp, memory: MemoryTarget) -> None:
    first = backed.run()
    backed.run()
    memory.put(backed.shelf.snapshot_name(first.id), first.serialize()[:-1])
    before = dict(memory.objects)
    with pytest.raises(IntegrityError):
        pruned(backed, 1)
    assert {name: data for name, data in memory.objects.items() if "turns" not in name} == before


def test_a_backup_and_a_prune_exclude_each_other(backed: BackedUp, memory: MemoryTarget) -> None:
    shelf = backed.shelf
    with Turn(shelf, "run", "1"):
        with Turn(shelf, "run", "2"):
            pass
        with pytest.raises(LockedError), Turn(shelf, "prune", "3"):
            pass
        memory.now_ms += LEASE_MS
        with Turn(shelf, "prune", "4"), pytest.raises(LockedError), Turn(shelf, "run", "5"):
            pass
    with Turn(shelf, "prune", "6"), pytest.raises(LockedError), Turn(shelf, "prune", "7"):
        pass
    assert memory.list(shelf.under("turns/")) == []


def test_of_two_that_begin_together_one_gives_way(backed: BackedUp, memory: MemoryTarget) -> None:
    """The flag is written before the other's is looked for: whatever the order, both cannot go on."""
    put, began = memory.put, []

    def between(name: str, data: bytes) -> None:
        put(name, data)
        if "turns/run-" in name and not began:
            began.append(name)
            with pytest.raises(LockedError), Turn(backed.shelf, "prune", "2"):
                pass

    memory.put = between  # type: ignore[method-assign, assignment]
    with Turn(backed.shelf, "run", "1"):
        assert began


def test_who_was_stopped_for_too_long_goes_on_with_nothing(backed: BackedUp, memory: MemoryTarget) -> None:
    now = [0.0]
    with Turn(backed.shelf, "run", "1", look=lambda: now[0]) as turn:
        memory.now_ms = 5
        now[0] = LEASE_MS / 3000
        turn.keep()
        assert memory.list(backed.shelf.under("turns/"))[0].stored_ms == 5
        now[0] += LEASE_MS / 1000
        with pytest.raises(UnavailableError):
            turn.keep()


def test_a_codec_refuses_what_it_did_not_write() -> None:
    good = made(0)
    assert Snapshot.parse(good.serialize()) == good
    for bad in (replace(good, id="x"), replace(good, archive_id=b""), replace(good, piece_bytes=0)):
        with pytest.raises(IntegrityError):
            Snapshot.parse(bad.serialize())
