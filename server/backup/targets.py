"""Targets by what an administrator writes: an absolute path or an `s3://` address.

Rule: the only place that knows which kinds there are.
"""

import time
from collections.abc import Callable
from pathlib import Path

from coffer.archive.copies.folder_target import FolderTarget
from coffer.archive.copies.target import Stored, Target
from coffer.keys.buffer import Buffer
from coffer.keys.errors import ConfigError

__all__ = ["Paced", "open_target", "require_apart"]


def open_target(place: str) -> Target:
    """The target at a place. Raises ConfigError for what is neither, UnavailableError if it cannot be reached."""
    if place.startswith("s3://"):
        raise ConfigError("targets in object stores are not supported", hint="give an absolute path")
    if not Path(place).is_absolute():
        raise ConfigError(
            "a target is an absolute path, or s3://BUCKET/PREFIX",
            hint="give it so, as an argument or in the configuration: [backup] target",
        )
    return FolderTarget(Path(place))


def require_apart(archive: Path, place: str) -> None:
    """Raise ConfigError if a target in a folder is inside the archive, or the archive inside it."""
    if place.startswith("s3://"):
        return
    here, there = archive.resolve(), Path(place).resolve()
    if there.is_relative_to(here) or here.is_relative_to(there):
        raise ConfigError(
            "the target and the archive folder are inside one another",
            hint="name a folder elsewhere, best on another machine's disk",
        )


class Paced(Target):
    """Another target, to which no more than so many bytes a second are sent."""

    def __init__(
        self,
        target: Target,
        bytes_per_second: float,
        *,
        look: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._target = target
        self._rate = bytes_per_second
        self._look = look
        self._wait = wait
        self._free_at = look()

    @property
    def name(self) -> str:
        """As the target's."""
        return self._target.name

    def put(self, name: str, data: Buffer) -> None:
        """As the target's, after waiting until what was sent before has had its time."""
        now = self._look()
        if now < self._free_at:
            self._wait(self._free_at - now)
        self._free_at = max(now, self._free_at) + len(memoryview(data).cast("B")) / self._rate
        self._target.put(name, data)

    def get(self, name: str, most: int = 256 << 20) -> bytes:
        """As the target's."""
        return self._target.get(name, most)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """As the target's."""
        return self._target.read(name, offset, length)

    def list(self, prefix: str) -> list[Stored]:
        """As the target's."""
        return self._target.list(prefix)

    def remove(self, name: str) -> None:
        """As the target's."""
        self._target.remove(name)
