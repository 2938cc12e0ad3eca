"""The fence before every commit log: who may not write any more is refused, whatever it believes."""

from collections.abc import Sequence

import pytest

from coffer.archive.commit.commit_log import CommitLog, Group, LogEnd
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.keys.errors import FencedError, UnavailableError
from coffer.keys.lease.epoch_authority import Lease
from tests.archive.commit.places import Place
from tests.archive.conftest import entry


def refuses(log: CommitLog, lease: Lease, at: LogEnd, group: Group) -> None:
    """Nothing can be done with this lease."""
    for call in (
        lambda: log.append(lease, at, group),
        lambda: log.seal(lease, at),
        lambda: log.outcome(lease, at.chain.head),
    ):
        with pytest.raises(FencedError):
            call()


def test_a_log_that_was_not_taken_is_not_written(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    end = log.take(lease).end
    made = place.group(end, entry(0))
    log.append(lease, end, made)
    place.authority.release(lease)
    before = place.segments()
    other, second = place.log(), place.lease()
    refuses(other, second, end, made)
    refuses(log, second, end, made)
    assert place.segments() == before
    other.close()


def test_a_zombie_is_refused(place: Place, log: CommitLog) -> None:
    zombie = place.lease()
    end = log.take(zombie).end
    end = log.append(zombie, end, place.group(end, entry(0)))
    if place.folder.held_in is None:  # the kernel displaces nobody alive
        place.authority.release(zombie)
    other, lease = place.log(), place.lease()
    taken = other.take(lease).end
    before = place.segments()
    refuses(log, zombie, end, place.group(end, entry(9)))
    with pytest.raises(FencedError):
        log.take(zombie)
    assert place.segments() == before
    other.append(lease, taken, place.group(taken, entry(1)))
    refuses(log, zombie, end, place.group(end, entry(9)))
    other.close()
    assert place.content_ids() == [entry(0).content_id, entry(1).content_id]
    place.require_sound()


def test_what_is_signed_is_asked_for_behind_the_fence(place: Place, log: CommitLog) -> None:
    zombie = place.lease()
    end = log.take(zombie).end
    made = place.group(end, entry(0))
    if place.folder.held_in is None:
        place.authority.release(zombie)
    refused: list[BaseException] = []

    def told() -> Sequence[Checkpoint]:
        try:
            log.append(zombie, end, made)
        except FencedError as error:
            refused.append(error)
        return ()

    other = place.log()
    other.take(place.lease(), told)
    other.close()
    assert len(refused) == 1
    assert place.content_ids() == []


def test_a_call_that_comes_late_is_refused(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    at = log.take(lease).end
    late = place.group(at, entry(7))
    end = log.append(lease, at, place.group(at, entry(0)))
    before = place.segments()
    for call in (lambda: log.append(lease, at, late), lambda: log.seal(lease, at)):
        with pytest.raises(FencedError):
            call()
    assert log.outcome(lease, late.head) is None
    assert place.segments() == before
    log.append(lease, end, place.group(end, entry(1)))
    place.require_sound()


def test_a_released_lease_takes_nothing(place: Place, log: CommitLog) -> None:
    lease = place.lease()
    place.authority.release(lease)
    with pytest.raises(UnavailableError):
        log.take(lease)
