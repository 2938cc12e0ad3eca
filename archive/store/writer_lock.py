"""The writer's lock: one process at a time writes the archive, and the others learn which one.

Rule: it is a lease of the folder's authority, so that who may write is asked in one place. The holder is named with the
key providers it was started with: keys that move to another provider would be out of its reach. The folder itself is
locked as well: whoever removes the file beneath a writer does not make room for a second one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from coffer.keys.disk.lock import FolderLock, Holder, is_folder_locked, this_process
from coffer.keys.errors import LockedError
from coffer.keys.lease.epoch_authority import EpochAuthority
from coffer.keys.lease.flock_authority import FlockAuthority

__all__ = ["WriterLock", "writer"]


_BUSY: Final = "the archive is being written by"
_HINT: Final = "stop it first, or send the work to it over the network"


def _authority(path: Path) -> EpochAuthority:
    return FlockAuthority(path.parent, _BUSY, _HINT)


def writer(path: Path) -> Holder | None:
    """Who holds the writer's lock at this path now, or None."""
    found = _authority(path).current(path.name).holder
    return Holder() if found is None and is_folder_locked(path.parent) else found


def command_of(words: Sequence[str]) -> str:
    """What others are told of a process with that command line: `coffer serve`, without its options."""
    left = iter(words)
    for word in left:
        if word in {"--archive", "--config"}:
            next(left, None)
        elif not word.startswith("-"):
            return f"coffer {word}"
    return "coffer"


def require_free(path: Path) -> None:
    """Raise LockedError, as `WriterLock` would, if another process holds the lock now: for whoever has something to do
    before it takes it."""
    held = writer(path)
    if held is not None and not held.is_this_process():
        raise LockedError(f"{_BUSY} {held}", hint=_HINT)


class WriterLock:
    """Held from construction to `close`; `lease` is what the log is written with. Raises LockedError naming the holder,
    and as `keys.disk.lock.ProcessLock`."""

    __slots__ = ("_authority", "_folder", "lease")

    def __init__(self, path: Path, command: str, since_ms: int, providers: Mapping[str, str] | None = None) -> None:
        """`providers` are the key providers that this process was started with: kind to settings."""
        self._authority = _authority(path)
        who = self._authority.current(path.name).holder or "another process, whose LOCK was removed"
        self._folder = FolderLock(path.parent, f"{_BUSY} {who}", _HINT)
        try:
            self.lease = self._authority.acquire(path.name, this_process(command, since_ms, providers))
        except BaseException:
            self._folder.close()
            raise

    def close(self) -> None:
        """Release the lock: nothing is written with its lease from here on. Harmless when repeated."""
        self._authority.release(self.lease)
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
