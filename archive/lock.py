"""The writer's lock: flock on a file that also says who holds it.

Rule: the lock is the flock, which the kernel drops when the process dies; the text is only for the person who asks.
"""

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from keys.errors import LockedError


class WriterLock:
    """Held from construction to `close`. Raises LockedError naming the holder."""

    def __init__(self, path: Path, command: str, since_ms: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = _holder(os.pread(self._fd, 4096, 0))
            os.close(self._fd)
            raise LockedError(
                f"the archive is being written by {who}", hint="stop it first, or send the work to it over the network"
            ) from error
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since_ms": since_ms})
        self._say(text)

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._fd >= 0:
            self._say("")
            os.close(self._fd)
            self._fd = -1

    def _say(self, text: str) -> None:
        """Best effort: a volume that is full or turned read-only keeps nobody from the lock, or from letting it go."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def holder(path: Path) -> str | None:
    """Who holds the lock now: command, process and host; None where nobody does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(os.pread(fd, 4096, 0))
    finally:
        os.close(fd)
    return None


def _holder(text: bytes) -> str:
    try:
        who = json.loads(text)
        return f"{who['command']!r} (pid {who['pid']} on {who['host']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
