"""Targets by what an administrator writes: an absolute path or an `s3://` address.

Rule: the only place that knows which kinds there are.
"""

import time
from collections.abc import Callable
from pathlib import Path

from coffer.archive.copies.folder_target import FolderTarget
from coffer.archive.copies.target import MOST_BYTES, Stored, Target
from coffer.keys.buffer import Buffer
from coffer.keys.errors import ConfigError

__all__ = ["Paced", "hold_object", "open_target", "open_vault", "require_apart"]


def open_target(place: str) -> Target:
    """The target at a place. Raises ConfigError for what is neither, UnavailableError if it cannot be reached."""
    if place.startswith("s3://"):
        from coffer.server.backup.s3_target import S3Target  # most hosts have no object store, nor its packages

        return S3Target(place)
    if not Path(place).is_absolute():
        raise ConfigError(
            "a target is an absolute path, or s3://BUCKET/PREFIX",
            hint="give it so, as an argument or in the configuration: [backup] target",
        )
    return FolderTarget(Path(place))


def open_vault(place: str) -> Target:
    """The target at a place where copies of the keyring are to be written. Raises as `open_target`, and ConfigError if
    it keeps what is removed: nobody could say when a copy there is gone."""
    target = open_target(place)
    if getattr(target, "keeps_removed", bool)():
        raise ConfigError(
            f"{target.name} keeps versions: a copy of the keyring that is removed there would stay",
            hint="use a bucket without versions and without object lock for [backup] keys",
        )
    return target


def hold_object(target: Target, name: str, until_ms: int) -> None:
    """Let a target keep an object until then (ms since 1970). Raises ConfigError if it is of a kind that cannot;
    UnavailableError if it does not."""
    inner = target.target if isinstance(target, Paced) else target
    hold: Callable[[str, int], None] | None = getattr(inner, "hold", None)
    if hold is None:
        raise ConfigError(
            f"{target.name} cannot lock what it keeps", hint="set [backup] lock_days = 0, or use an object store"
        )
    hold(name, until_ms)


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
        self.target = target
        self._rate = bytes_per_second
        self._look = look
        self._wait = wait
        self._free_at = look()

    @property
    def name(self) -> str:
        """As the target's."""
        return self.target.name

    def put(self, name: str, data: Buffer) -> None:
        """As the target's, after waiting until what was sent before has had its time."""
        now = self._look()
        if now < self._free_at:
            self._wait(self._free_at - now)
        self._free_at = max(now, self._free_at) + len(memoryview(data).cast("B")) / self._rate
        self.target.put(name, data)

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """As the target's."""
        return self.target.get(name, most)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """As the target's."""
        return self.target.read(name, offset, length)

    def list(self, prefix: str) -> list[Stored]:
        """As the target's."""
        return self.target.list(prefix)

    def remove(self, name: str) -> None:
        """As the target's."""
        self.target.remove(name)
