"""Background work: what a job is, and the one supervisor that runs all jobs of a server.

Rule: a job says what one turn does and when the next one is due; the thread, the restart after a death and the order of
stopping are the supervisor's. Threads that serve peers (doors, the committing thread) run by themselves; the supervisor
knows them only as what the server cannot do without.
"""

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from coffer.keys.errors import ServiceError
from coffer.server.host.watched import Watched
from coffer.server.observe.logs import get_logger

__all__ = ["Job", "Jobs"]

_log = get_logger()


class Job(Protocol):
    """Work that the server does beside what peers ask for, from `begin` to `end`, turn by turn.

    Stop: `stopping` is set. A turn that waits does so on this event, and one that takes long looks at it and returns
    with nothing left that the next start could not resume. Death: a failure that is to be expected (CofferError) is the
    job's own to log, to show as a concern and to try again; whatever else `turn` raises is a fault or a shortage, which
    the supervisor logs, counts in `coffer_restarts_total` under `name` and shows as a concern, before it calls `turn`
    again in the same thread after 0.1 to 5 s. The object stays, so that a turn trusts nothing that a death may have
    left half changed in it. Metrics: a job counts in the `Metrics` that it was made with; gauges that it attaches in
    `begin` it detaches in `end`.
    """

    @property
    def name(self) -> str:
        """What it does, as in "the thread for NAME is gone". A constant: it is a label of the metrics."""

    @property
    def patience_seconds(self) -> float | None:
        """How long a stop waits for the turn under way. None: until it returns.

        Anything but None is for a turn that may wait for somebody who never answers, an HSM for instance. It is left
        behind, and must then change nothing in the archive, which is closed beneath it.
        """

    @property
    def stopping(self) -> threading.Event:
        """Set once, by the supervisor. Exists from the beginning and stays the same."""

    def begin(self) -> None:
        """Get ready. Called once, before the first turn, by the thread that opens the server. Whatever is raised, any
        CofferError for instance, ends the opening, and `end` is not called."""

    def turn(self) -> float:
        """Do what there is to do now; seconds until the next turn, 0 for at once. Called by one thread, the first time
        without a wait."""

    def end(self) -> None:
        """Let go of what `begin` took; what is to be kept is durable on return. Called once, after the last turn or
        when the patience with it has run out. Raises nothing."""

    def concerns(self) -> list[str]:
        """What a human should look at, a sentence for each, for /readyz; nothing when all is well. Called by any thread
        at any time after `begin`, also during a turn; takes no lock that a turn holds for long."""


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    watched: Watched


class Jobs:
    """Runs jobs, each in a thread of its own, from `start` to `stop`. `start`, `need` and `stop` are called by one
    thread, everything else by any."""

    def __init__(self) -> None:
        self._running: list[_Running] = []
        self._needed: list[Watched] = []

    def start(self, job: Job) -> None:
        """Begin a job and give it its turns. Raises what its `begin` raises, RuntimeError where the system gives no
        thread."""
        job.begin()
        running = _Running(job, Watched(job.name, partial(_take_turns, job), job.stopping))
        self._running.append(running)
        running.watched.start()

    def need(self, watched: Watched) -> None:
        """Have the server depend on a thread that is started and stopped elsewhere: nothing can be stored, found or
        seen without it."""
        self._needed.append(watched)

    def stop(self) -> None:
        """Stop the jobs, the last one first. Each ends before the one that was started before it is told to stop, or
        is left behind when its patience has run out. Harmless when repeated."""
        running, self._running = self._running, []
        with ExitStack() as last_first:  # whatever fails in one job, the others are stopped
            for each in running:
                last_first.callback(_stop, each)

    def reasons(self) -> list[str]:
        """Why the server cannot do its work now: what is wrong with the threads that it needs."""
        return [told for watched in list(self._needed) if (told := watched.trouble())]

    def concerns(self) -> list[str]:
        """What a human should look at although the server does its work, job by job in the order of their starts."""
        told = []
        for running in list(self._running):
            told += [running.watched.trouble(), *running.job.concerns()]
        return [each for each in told if each]

    def restarts(self) -> dict[str, int]:
        """How often each thread died and was started again, by its name."""
        watched = [*self._needed, *(running.watched for running in list(self._running))]
        return {each.name: each.deaths for each in watched}

    def silent_seconds(self) -> float:
        """For how long the most silent of the threads that the server needs has not gone on."""
        return max((watched.silent_seconds() for watched in list(self._needed)), default=0.0)

    def require_whole(self) -> None:
        """Return unless a thread that the server needs died and does not come back: then raise ServiceError."""
        for watched in list(self._needed):
            if watched.is_lost():
                raise ServiceError(
                    f"the server ends, because a part of it does not come back: {watched.trouble()}",
                    hint="start it again; the log says what happened",
                )


def _take_turns(job: Job) -> None:
    while not job.stopping.is_set():
        job.stopping.wait(job.turn())


def _stop(running: _Running) -> None:
    job, watched = running.job, running.watched
    job.stopping.set()
    watched.join(job.patience_seconds)
    if watched.is_alive():
        _log.warning("a job did not stop in time and is left behind", name="job.left_behind", what=job.name)
    job.end()
