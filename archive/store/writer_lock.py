"""The writer's lock: one process at a time writes the archive, and the others learn who it is.

Rule: who holds it is told by `keys.disk.lock.holder`, and with it the key providers it knows: keys that moved to
another one would be out of its reach.
"""

from collections.abc import Mapping
from pathlib import Path

from coffer.keys.disk.lock import ProcessLock


class WriterLock(ProcessLock):
    """Held from construction to `close`. Raises LockedError naming the holder."""

    def __init__(self, path: Path, command: str, since_ms: int, providers: Mapping[str, str] | None = None) -> None:
        """`providers` are the key providers this process was started with: by kind, with which settings."""
        busy, hint = "the archive is being written by", "stop it first, or send the work to it over the network"
        super().__init__(path, command, since_ms, busy=busy, hint=hint, providers=providers)
