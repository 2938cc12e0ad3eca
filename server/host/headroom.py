"""The descriptors, threads and memory that a process must keep free, and what happens when they run out.

Rule: a new association is refused before the last descriptors are gone, because those that are open need some too: for
bodies, segments, destinations, checkpoints. The limit is read each time, since an administrator may change it while
the server runs (`prlimit`); a shortage is over as soon as a trial succeeds, without a restart.
"""

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from coffer.keys.errors import UnavailableError
from coffer.server.observe.logs import get_logger

__all__ = [
    "DESCRIPTORS",
    "KINDS",
    "CongestedError",
    "Shortage",
    "converting_shortage",
    "lacks_descriptors",
    "raise_limit",
    "refusal_of",
    "require_descriptors",
    "what_ran_out",
]

_log = get_logger()

SPARE: Final = 24  # descriptors that no new association may touch
_FOR_ONE_STEP: Final = 4
_OPEN: Final = next((path for path in map(Path, ("/proc/self/fd", "/dev/fd")) if path.is_dir()), Path(os.devnull))
_IS_COUNTED: Final = _OPEN.parent.name == "self" and _OPEN.stat().st_size > 0
DESCRIPTORS, THREADS, MEMORY = "file descriptors", "threads", "memory"
KINDS: Final = (DESCRIPTORS, THREADS, MEMORY)
_REMEDIES: Final = {
    DESCRIPTORS: "raise the limit of open files (LimitNOFILE=, ulimit -n), or lower dimse.max_associations",
    THREADS: "raise the limit of threads (TasksMax=, ulimit -u), or lower dimse.max_associations",
    MEMORY: "give the machine more memory, or lower dimse.max_associations",
}
_ERRNOS: Final = {
    errno.EMFILE: DESCRIPTORS,
    errno.ENFILE: DESCRIPTORS,
    errno.ENOMEM: MEMORY,
    errno.ENOBUFS: MEMORY,
    errno.EAGAIN: THREADS,  # from fork and clone; EAGAIN from a socket is handled where the socket is used
}


class CongestedError(UnavailableError):
    """This process has no room for another association now."""


def what_ran_out(error: BaseException) -> str:
    """One of `KINDS` if an error says that the system has no more of it; "" for any other error."""
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return THREADS
    return _ERRNOS.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def refusal_of(error: BaseException) -> UnavailableError | None:
    """The error to answer with if a request failed because something ran out; None if that is not the cause."""
    what = what_ran_out(error)
    return UnavailableError(f"the server is short of {what}", hint=_REMEDIES[what]) if what else None


@contextlib.contextmanager
def converting_shortage() -> Iterator[None]:
    """Convert a shortage in the block into an UnavailableError that names it."""
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        raise refusal from error


def lacks_descriptors() -> bool:
    """Whether this process has fewer than `SPARE` file descriptors left."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        # Since Linux 6.2 the size is their number; elsewhere they are listed.
        return (_OPEN.stat().st_size if _IS_COUNTED else sum(1 for _ in _OPEN.iterdir())) >= limit - SPARE
    except OSError as error:
        return what_ran_out(error) == DESCRIPTORS


def require_descriptors() -> None:
    """Raise UnavailableError unless the few descriptors that one step of work opens are available.

    For work that must not fail half-way: a log that cannot open its next segment stops until a restart.
    """
    tried: list[int] = []
    try:
        with converting_shortage():
            tried.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(_FOR_ONE_STEP))
    finally:
        for descriptor in tried:
            os.close(descriptor)


def raise_limit(wanted: int) -> None:
    """Raise the limit of this process and its children to `wanted` descriptors or the hard limit; never lower it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


class Shortage:
    """What this process is short of. Thread-safe. Logs a shortage once when it begins and once when it is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._what = ""

    def note(self, what: str) -> None:
        """Record that something ran out (one of `KINDS`)."""
        with self._lock:
            is_new, self._what = what != self._what, what
        if is_new:
            _log.error("new associations are refused", name="resource.exhausted", short_of=what, remedy=_REMEDIES[what])

    def reason(self) -> str:
        """A sentence for /readyz while something is short; "" if nothing is."""
        what = self.now()
        return f"short of {what}, new associations are refused: {_REMEDIES[what]}" if what else ""

    def now(self) -> str:
        """What is still short, as a trial shows now; "" if nothing is."""
        what = self._what
        if what and not _is_short(what):
            with self._lock:
                self._what = ""
            _log.info("new associations are accepted again", name="resource.recovered", was_short_of=what)
            return ""
        return what


def _is_short(what: str) -> bool:
    try:
        if what == DESCRIPTORS:
            return lacks_descriptors()
        if what == THREADS:
            trial = threading.Thread(target=int)
            trial.start()
            trial.join()
    except (OSError, RuntimeError, MemoryError):
        return True
    return False
