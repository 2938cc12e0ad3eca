"""The writer's lock: one process at a time writes the archive, and the others learn which one.

Rule: `keys.disk.lock.holder` names the holder and the key providers it was started with: keys that move to another
provider would be out of its reach.
"""

from collections.abc import Mapping
from pathlib import Path

from coffer.keys.disk.lock import ProcessLock


class WriterLock(ProcessLock):
    """Held from construction to `close`. Raises LockedError naming the holder."""

    def __init__(self, path: Path, command: str, since_ms: int, providers: Mapping[str, str] | None = None) -> None:
        """`providers` are the key providers that this process was started with: kind to settings."""
        busy, hint = "the archive is being written by", "stop it first, or send the work to it over the network"
        super().__init__(path, command, since_ms, busy=busy, hint=hint, providers=providers)
