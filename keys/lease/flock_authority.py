"""Leases on one machine: a flock on a file of the lease's name.

Rule: the kernel drops the lock with the process that holds it, at whatever moment that dies, and lends it to nobody
meanwhile. So there is no holder to fence: every epoch is 0, and nobody alive is ever displaced.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coffer.keys.disk.lock import Holder, ProcessLock, holder
from coffer.keys.errors import FencedError
from coffer.keys.lease.epoch_authority import EpochAuthority, Incumbent, Lease

__all__ = ["FlockAuthority"]

_EPOCH: Final = 0


class _Locked(Lease):
    """A lease with the lock that it stands for."""

    __slots__ = ("lock",)

    def __init__(self, name: str, holder: Holder, lock: ProcessLock) -> None:
        super().__init__(name, _EPOCH, holder)
        self.lock = lock


@dataclass(frozen=True, slots=True)
class FlockAuthority(EpochAuthority):
    """The leases of a folder, each a file in it. A value: two of the same folder are the same authority.

    `busy` and `hint` are what a LockedError says: "<busy> <holder>".
    """

    folder: Path
    busy: str
    hint: str

    def acquire(self, name: str, holder: Holder, seen: int | None = None) -> Lease:
        """open, flock; the text of the file names the holder. An answer cannot be lost, and nobody alive is displaced.

        Raises IntegrityError, too, where the file is a link or not a regular file.
        """
        lock = ProcessLock(
            self.folder / name,
            holder.command,
            holder.since_ms,
            busy=self.busy,
            hint=self.hint,
            providers=holder.providers,
        )
        if seen not in {None, _EPOCH}:
            lock.close()
            raise FencedError("the lease is of another epoch", hint="look who holds it, and try again")
        return _Locked(name, holder, lock)

    def current(self, name: str) -> Incumbent:
        """open, flock (shared, for a moment), and the text of the file."""
        return Incumbent(_EPOCH, holder(self.folder / name))

    def release(self, lease: Lease) -> None:
        """The text is emptied, then close, which drops the lock."""
        lease.end()
        if isinstance(lease, _Locked):
            lease.lock.close()
