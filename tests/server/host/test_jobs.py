"""Jobs: begun in order, given turns, started again when they die, stopped in reverse order, some left behind."""

import threading
from collections.abc import Iterator

import pytest

from coffer.keys.errors import IntegrityError, ServiceError
from coffer.server.config.settings import Logging
from coffer.server.host import watched as module
from coffer.server.host.job import Jobs
from coffer.server.host.watched import Watched
from coffer.server.observe import logs
from tests.captured_logs import capture_logs


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def _logged() -> None:
    """Warnings are written, whatever another test of this process has configured."""
    logs.configure(Logging(), level="warning")


class Recorded:
    """A job that writes down what happens to it, and fails or hangs where it is told to."""

    def __init__(self, name: str, said: list[str], patience_seconds: float | None = None) -> None:
        self.name = name
        self.patience_seconds = patience_seconds
        self.stopping = threading.Event()
        self.worked = threading.Event()
        self.release = threading.Event()
        self.hangs = False
        self.begin_error: Exception | None = None
        self.deaths: list[Exception] = []
        self.wait_seconds = 3600.0
        self.told: list[str] = []
        self._said = said

    def begin(self) -> None:
        if self.begin_error is not None:
            raise self.begin_error
        self._said.append(f"{self.name} begins")

    def turn(self) -> float:
        if self.deaths:
            raise self.deaths.pop(0)
        self._said.append(f"{self.name} turns")
        self.worked.set()
        if self.hangs:
            self.release.wait()
        return self.wait_seconds

    def end(self) -> None:
        self._said.append(f"{self.name} ends")

    def concerns(self) -> list[str]:
        return self.told


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.stop()


def test_jobs_end_in_the_reverse_of_the_order_of_their_starts(jobs: Jobs, said: list[str]) -> None:
    for name in ("first", "second", "third"):
        jobs.start(job := Recorded(name, said))
        assert job.worked.wait(20)
    jobs.stop()
    jobs.stop()
    assert said == [
        "first begins", "first turns", "second begins", "second turns", "third begins", "third turns",
        "third ends", "second ends", "first ends",
    ]  # fmt: skip


def test_a_stop_waits_for_a_turn_unless_it_may_be_left_behind(jobs: Jobs, said: list[str]) -> None:
    writes, asks = Recorded("writes", said), Recorded("asks", said, patience_seconds=0.05)
    writes.hangs = asks.hangs = True
    for job in (writes, asks):
        jobs.start(job)
        assert job.worked.wait(20)
    with capture_logs() as logged:
        stopping = threading.Thread(target=jobs.stop)
        stopping.start()
        assert writes.stopping.wait(20), "the one that hangs is left behind"
        stopping.join(0.2)
        assert stopping.is_alive(), "the one that writes is not"
        assert said[-1] == "asks ends"
        writes.release.set()
        stopping.join(20)
    assert said[-1] == "writes ends"
    assert [line["what"] for line in logged if "left behind" in line["event"]] == ["asks"]
    asks.release.set()


def test_a_job_that_does_not_begin_has_no_turn_and_no_end(jobs: Jobs, said: list[str]) -> None:
    job = Recorded("it", said)
    job.begin_error = IntegrityError("a list that cannot be read")
    with pytest.raises(IntegrityError):
        jobs.start(job)
    jobs.stop()
    assert said == []
    assert jobs.restarts() == {}


def test_a_job_that_dies_has_its_next_turn_and_is_told_of(jobs: Jobs, said: list[str]) -> None:
    job = Recorded("it", said)
    job.deaths = [MemoryError(), RuntimeError("a fault")]
    job.told = ["a finding waits"]
    jobs.start(job)
    assert job.worked.wait(20)
    assert said == ["it begins", "it turns"]
    assert jobs.restarts() == {"it": 2}
    assert jobs.concerns() == ["it died 2 times and is started again each time: RuntimeError", "a finding waits"]
    assert jobs.reasons() == []
    jobs.require_whole()


def test_turns_follow_each_other_at_the_pace_that_they_say(jobs: Jobs, said: list[str]) -> None:
    job = Recorded("it", said)
    job.wait_seconds = 0.0
    jobs.start(job)
    pause = threading.Event()
    while said.count("it turns") < 5:
        pause.wait(0.01)
    jobs.stop()
    assert said[-1] == "it ends"


def test_a_needed_thread_is_a_reason_and_ends_the_server_when_it_is_lost(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    stopping, died = threading.Event(), threading.Event()

    def work() -> None:
        died.set()
        raise ValueError("a fault")

    watched = Watched("accepting", work, stopping)
    jobs.need(watched)
    jobs.require_whole()
    assert jobs.reasons() == []
    watched.start()
    assert died.wait(20)
    pause = threading.Event()
    while not watched.is_lost():
        pause.wait(0.01)
    assert jobs.reasons()[0].startswith("accepting died")
    with pytest.raises(ServiceError, match="does not come back: accepting died"):
        jobs.require_whole()
    assert jobs.concerns() == []
    stopping.set()
    watched.join(20)
