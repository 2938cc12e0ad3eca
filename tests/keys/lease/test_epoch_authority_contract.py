"""What every authority over leases promises: on one machine, in memory, and over a connection that loses answers."""

import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import TypeVar

import pytest

from coffer.keys.disk.lock import Holder, this_process
from coffer.keys.errors import FencedError, LockedError
from coffer.keys.lease.epoch_authority import EpochAuthority, Incumbent, Lease, held
from coffer.keys.lease.flock_authority import FlockAuthority
from coffer.keys.lease.memory_authority import MemoryAuthority
from tests.lost_answers import LossyLine, LostAnswerError, until_answered

T = TypeVar("T")
ME, OTHER = (this_process(command, 1) for command in ("coffer serve", "coffer put"))


class FaultyAuthority(EpochAuthority):
    """Another authority, over a line that is slow, reorders and loses answers."""

    def __init__(self, inner: EpochAuthority, seed: int) -> None:
        self.inner = inner
        self._through = LossyLine(seed).through

    def acquire(self, name: str, holder: Holder, seen: int | None = None) -> Lease:
        return self._through(lambda: self.inner.acquire(name, holder, seen))

    def current(self, name: str) -> Incumbent:
        return self._through(lambda: self.inner.current(name))

    def release(self, lease: Lease) -> None:
        self._through(lambda: self.inner.release(lease))


class Patient(EpochAuthority):
    """What a caller does with such an authority, by nothing but the contract."""

    def __init__(self, inner: EpochAuthority) -> None:
        self.inner = inner

    def acquire(self, name: str, holder: Holder, seen: int | None = None) -> Lease:
        for _ in range(100):
            try:
                return self.inner.acquire(name, holder, seen)
            except LostAnswerError:
                found = self.current(name)
                if found.holder == holder:  # it was granted: the lease that was lost with the answer is displaced
                    seen = found.epoch
        raise AssertionError("no answer ever comes")

    def current(self, name: str) -> Incumbent:
        return until_answered(lambda: self.inner.current(name))

    def release(self, lease: Lease) -> None:
        until_answered(lambda: self.inner.release(lease))


def flock(folder: Path) -> FlockAuthority:
    return FlockAuthority(folder, "it is held by", "wait")


@pytest.fixture(params=["flock", "memory", "memory, answers lost"])
def authority(request: pytest.FixtureRequest, tmp_path: Path) -> EpochAuthority:
    if request.param == "flock":
        return flock(tmp_path)
    if request.param == "memory":
        return MemoryAuthority()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return Patient(FaultyAuthority(MemoryAuthority(), seed))


def test_nobody_holds_a_name_that_was_never_given(authority: EpochAuthority) -> None:
    assert authority.current("a") == (0, None)


def test_the_second_is_told_who_holds_it(authority: EpochAuthority) -> None:
    with held(authority, "a", ME) as lease:
        lease.require()
        found = authority.current("a")
        assert (found.epoch, str(found.holder)) == (lease.epoch, str(ME))
        with pytest.raises(LockedError, match="coffer serve"):
            authority.acquire("a", OTHER)
        authority.release(authority.acquire("b", OTHER))
        lease.require()
    assert authority.current("a").holder is None


def test_a_released_lease_is_over_and_its_epoch_is_never_given_to_less(authority: EpochAuthority) -> None:
    first = authority.acquire("a", ME)
    authority.release(first)
    with pytest.raises(FencedError):
        first.require()
    second = authority.acquire("a", OTHER)
    authority.release(first)  # it was over: the other one's stays
    second.require()
    assert second.epoch >= first.epoch
    assert str(authority.current("a").holder) == str(OTHER)
    authority.release(second)
    authority.release(second)


def test_what_was_seen_must_still_be_so(authority: EpochAuthority) -> None:
    epoch = authority.current("a").epoch
    authority.release(authority.acquire("a", ME, epoch))
    with pytest.raises(FencedError):
        authority.acquire("a", OTHER, authority.current("a").epoch + 7)
    assert authority.current("a").holder is None


def test_of_many_who_ask_at_once_one_holds_it(authority: EpochAuthority) -> None:
    granted, refused, start = list[Lease](), list[BaseException](), threading.Barrier(6)

    def ask(number: int) -> None:
        start.wait()
        try:
            granted.append(authority.acquire("a", this_process(f"number {number}", 1)))
        except (LockedError, FencedError) as error:
            refused.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(granted) + len(refused) == 6
    assert len(granted) == 1
    assert str(authority.current("a").holder) == str(granted[0].holder)
    authority.release(granted[0])


@pytest.mark.parametrize("answers", ["come", "are lost"])
def test_whoever_displaces_a_holder_has_a_later_epoch(answers: str) -> None:
    memory = MemoryAuthority()
    authority = memory if answers == "come" else Patient(FaultyAuthority(memory, random.randrange(1 << 32)))
    zombie = authority.acquire("a", ME)
    taken = authority.acquire("a", OTHER, authority.current("a").epoch)
    assert taken.epoch > zombie.epoch
    zombie.require()  # it is not told: the log tells it
    authority.release(zombie)
    assert memory.current("a") == (taken.epoch, OTHER)
    with pytest.raises(FencedError, match="first"):
        authority.acquire("a", ME, zombie.epoch)


def test_a_living_holder_on_this_machine_is_not_displaced(tmp_path: Path) -> None:
    authority = flock(tmp_path)
    with held(authority, "a", ME) as lease, pytest.raises(LockedError):
        authority.acquire("a", OTHER, lease.epoch)


HOLD = """
import pathlib, sys
from coffer.keys.disk.lock import this_process
from coffer.keys.lease.flock_authority import FlockAuthority
lease = FlockAuthority(pathlib.Path(sys.argv[1]), "held by", "").acquire("a", this_process("coffer serve", 1))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_holder_leaves_no_lease(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(LockedError, match=f"pid {child.pid}"):
        flock(tmp_path).acquire("a", ME)
    child.kill()
    child.communicate()
    with held(flock(tmp_path), "a", ME) as lease:
        lease.require()
