"""Locks between processes: flock on a file that also names its holder.

Rule: the lock is the flock, which the kernel drops when the process dies; the text is for people only.
Any change of a keyring's epochs or of their keepers happens under a `ChangeLock`: a provider is updated by reading
and rewriting its contents, and of two concurrent updates one would lose the other's secret.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from coffer.keys.clock import LAST_MS
from coffer.keys.disk import opening
from coffer.keys.disk.reading import read_up_to
from coffer.keys.disk.syscalls import SYSTEM
from coffer.keys.errors import IntegrityError, LockedError, UnavailableError

__all__ = [
    "ChangeLock",
    "FolderLock",
    "Holder",
    "ProcessLock",
    "holder",
    "in_turn",
    "is_folder_locked",
    "is_foreign",
    "this_process",
]

_LONGEST: Final = 1 << 16
_BEGIN: Final = b'{"pid"'  # how every lock text starts
_REMOVE: Final = "move it away: it only names the process at work here, and the next command creates it anew"
_LAST_PID: Final = (1 << 31) - 1
_TRIES: Final = 5  # `holder` takes the lock for a moment too
_PAUSE: Final = 0.02
_TURN_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, according to its text: command, process, host, by kind the key providers that the process was
    started with, and since when (ms since 1970). Process 0: unknown."""

    command: str = ""
    pid: int = 0
    host: str = ""
    providers: Mapping[str, str] = field(default_factory=dict)
    since_ms: int = 0

    def __str__(self) -> str:
        return f"{self.command!r} (pid {self.pid} on {self.host})" if self.pid else "another process"

    def is_this_process(self) -> bool:
        """Whether this process holds it. Containers have their own process ids, so the host is compared too."""
        return (self.pid, self.host) == (os.getpid(), socket.gethostname())

    @classmethod
    def decode(cls, text: bytes) -> Holder:
        """Parse a lock's text; a malformed one gives an unknown holder."""
        try:
            who = json.loads(text)
            pid, since_ms = int(who["pid"]), int(who["since_ms"])
            if not (0 <= pid <= _LAST_PID and 0 <= since_ms <= LAST_MS):
                return cls()
            return cls(str(who["command"]), pid, str(who["host"]), dict(who["providers"]), since_ms)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return cls()


def this_process(command: str, since_ms: int = 0, providers: Mapping[str, str] | None = None) -> Holder:
    """Return what others are shown of this process while it runs `command`."""
    return Holder(command, os.getpid(), socket.gethostname(), dict(providers or {}), since_ms)


class ProcessLock:
    """Held from construction to `close`. Takes a path (a new file gets mode 0600) and what others are shown: the
    command, since when (ms since 1970) and, where it matters to them, the key providers in use.

    The text is written only over an earlier lock's text: a file with other content, or with a second hard link, is
    locked but left as it is. Raises LockedError with `busy` and the holder as its message, UnavailableError where the
    file cannot be created, IntegrityError where it is a link or not a regular file.
    """

    def __init__(
        self,
        path: Path,
        command: str,
        since_ms: int,
        *,
        busy: str,
        hint: str,
        providers: Mapping[str, str] | None = None,
    ) -> None:
        self._fd = _opened(path)
        if not _locked(self._fd):
            who = Holder.decode(read_up_to(self._fd, 0, _LONGEST))
            os.close(self._fd)
            raise LockedError(f"{busy} {who}", hint=hint)
        self._is_ours = _is_ours(self._fd)
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since_ms": since_ms}
        self._write_text(json.dumps({**facts, "providers": dict(providers or {})}))

    def close(self) -> None:
        """Release the lock. Harmless when repeated."""
        if self._fd >= 0:
            self._write_text("")
            os.close(self._fd)
            self._fd = -1

    def _write_text(self, text: str) -> None:
        """Best effort: a volume that is full or became read-only must not prevent locking or unlocking."""
        with contextlib.suppress(OSError):
            if not self._is_ours:
                return
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _opened(path: Path) -> int:
    try:
        return SYSTEM.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR}:
            raise IntegrityError(f"{path} is a link or not a regular file", hint=_REMOVE) from error
        raise UnavailableError(
            f"cannot lock {path}: {error.strerror}", hint="check the volume, its mount and its permissions"
        ) from error


def _is_ours(fd: int) -> bool:
    """Whether a file holds nothing but a lock's text and has no other hard link: anyone who can write to the folder may
    have given this name to another file. A power cut leaves zeros."""
    return os.fstat(fd).st_nlink == 1 and _BEGIN.startswith(os.pread(fd, len(_BEGIN), 0).rstrip(b"\0"))


def is_foreign(path: Path) -> bool:
    """Whether the file under a lock's name is not a lock's text, so it cannot show who holds the lock."""
    try:
        with opening.opened(path) as file:
            return not _is_ours(file.fileno())
    except (FileNotFoundError, IntegrityError):
        return False


def _locked(fd: int) -> bool:
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE if left else 0)
        else:
            return True
    return False


@contextlib.contextmanager
def in_turn(fd: int, busy: str) -> Iterator[bool]:
    """Keep everybody else out of this for an open file while the block runs. Yields False where its file system has no
    locks. Raises LockedError with `busy` as its message where another process stays in it for ten seconds."""
    end = time.monotonic() + _TURN_SECONDS
    is_alone = True
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                raise LockedError(busy, hint="find out which one, with lsof for instance, and end it") from None
            time.sleep(_PAUSE)
        except OSError:
            is_alone = False
            break
    try:
        yield is_alone
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


class FolderLock:
    """A flock on a folder itself, from construction to `close`: no name in it can be taken away or put back beneath it.
    Where the file system locks no folders it holds nothing. Raises LockedError with `busy` as its message."""

    def __init__(self, folder: Path, busy: str, hint: str) -> None:
        self._fd = SYSTEM.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
        try:
            is_free = _locked(self._fd)
        except OSError:
            is_free = True
        if not is_free:
            self.close()
            raise LockedError(busy, hint=hint)

    def close(self) -> None:
        """Release it. Harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_folder_locked(folder: Path) -> bool:
    """Whether a `FolderLock` is held on it now."""
    try:
        fd = SYSTEM.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def holder(path: Path) -> Holder | None:
    """Return who holds the lock now, or None."""
    try:
        fd = SYSTEM.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None  # a link is never a held lock
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Holder.decode(read_up_to(fd, 0, _LONGEST))
    finally:
        os.close(fd)
    return None


class ChangeLock:
    """A lock over changes of a keyring, in a file beside its rows. Safe between threads."""

    __slots__ = ("_path", "_thread")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = 0  # the thread of this process that holds it

    @contextlib.contextmanager
    def held(self, command: str, since_ms: int) -> Iterator[None]:
        """Hold the lock while the block runs; reentrant in one thread. Raises LockedError, naming the holder."""
        if self._thread == threading.get_ident():
            yield
            return
        busy, hint = "the keys are being changed by", "wait for it, then run coffer keys list"
        with ProcessLock(self._path, command, since_ms, busy=busy, hint=hint):
            self._thread = threading.get_ident()
            try:
                yield
            finally:
                self._thread = 0

    def holder(self) -> Holder | None:
        """Return who holds it now, or None."""
        return holder(self._path)
