"""Threads that the service needs: started again when they die, told of while they cannot stay alive."""

import threading
from collections.abc import Callable

import pytest

from coffer.server.host import watched as module
from coffer.server.host.watched import Watched
from tests.captured_logs import capture_logs


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.0)


class Work:
    """Dies as often as it is told to, then waits for the end."""

    def __init__(self, deaths: list[BaseException | None]) -> None:
        self.stopping = threading.Event()
        self.settled = threading.Event()
        self._deaths = deaths

    def __call__(self) -> None:
        if self._deaths:
            death = self._deaths.pop(0)
            if death is None:
                return
            raise death
        self.settled.set()
        self.stopping.wait()


def started(deaths: list[BaseException | None], clock: Callable[[], float]) -> tuple[Watched, Work]:
    work = Work(deaths)
    watched = Watched("a test", work, work.stopping, clock=clock)
    watched.start()
    return watched, work


def end(watched: Watched, work: Work) -> None:
    work.stopping.set()
    watched.join(20)


def test_whatever_it_dies_of_it_is_started_again_and_told_of_until_it_is_well() -> None:
    now = [0.0]
    with capture_logs() as logged:
        watched, work = started([MemoryError(), None, RuntimeError("can't start new thread")], lambda: now[0])
        assert work.settled.wait(20)
        assert watched.deaths == 3
        assert watched.trouble() == "a test died 3 times and is started again each time: RuntimeError"
        now[0] += 11
        assert watched.trouble() == ""
        end(watched, work)
    assert [line["times"] for line in logged if line["event"] == "a thread died and is started again"] == [1, 2]


def test_one_that_dies_for_more_than_a_minute_is_lost() -> None:
    now, rounds = [0.0], [0]
    stopping = threading.Event()
    lost = threading.Event()

    def work() -> None:
        rounds[0] += 1
        now[0] += 1
        if watched.is_lost():
            lost.set()
            stopping.wait()
        raise ValueError

    watched = Watched("a test", work, stopping, clock=lambda: now[0])
    watched.start()
    assert lost.wait(20)
    assert 61 <= rounds[0] <= 64
    stopping.set()
    watched.join(20)


def test_a_shortage_may_last() -> None:
    now = [0.0]
    watched, work = started([OSError(24, "Too many open files")] * 5, lambda: now[0])
    assert work.settled.wait(20)
    now[0] += 5
    assert watched.trouble()
    assert not watched.is_lost()
    end(watched, work)


def test_one_that_is_gone_is_told_and_lost() -> None:
    def work() -> None:
        raise SystemExit

    watched = Watched("a test", work, threading.Event())
    assert (watched.trouble(), watched.is_lost()) == ("", False)  # not begun
    watched.start()
    watched.join(20)
    assert (watched.trouble(), watched.is_lost()) == ("the thread for a test is gone", True)


def test_work_that_says_that_it_goes_on_is_silent_once_it_is_stuck_but_not_while_it_is_dead() -> None:
    now = [0.0]
    watched, work = started([], lambda: now[0])
    assert work.settled.wait(20)
    now[0] = 100.0
    assert watched.silent_seconds() == 0.0  # it never said so: nobody waits for it
    watched.go_on()
    now[0] = 130.0
    assert watched.silent_seconds() == 30.0
    watched._die(MemoryError())
    assert watched.silent_seconds() == 0.0
    watched._begun = 150.0  # begun again: what it said in its former life counts no more
    now[0] = 160.0
    assert watched.silent_seconds() == 10.0
    end(watched, work)
    assert watched.silent_seconds() == 0.0
