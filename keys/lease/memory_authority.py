"""Leases in memory: for tests, and as the model of an authority that several machines ask.

Rule: it keeps the contract of `EpochAuthority` but for durability. Every lease has a later epoch, and a holder that was
displaced is not told.
"""

import threading

from coffer.keys.disk.lock import Holder
from coffer.keys.errors import FencedError, LockedError
from coffer.keys.lease.epoch_authority import EpochAuthority, Incumbent, Lease

__all__ = ["MemoryAuthority"]


class MemoryAuthority(EpochAuthority):
    """The leases of whoever shares this object."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}
        self._leases: dict[str, Lease] = {}
        self._lock = threading.Lock()

    def acquire(self, name: str, holder: Holder, seen: int | None = None) -> Lease:
        """As the contract says."""
        with self._lock:
            epoch, before = self._epochs.get(name, 0), self._leases.get(name)
            if seen is None and before is not None:
                raise LockedError(f"the lease is held by {before.holder}", hint="wait for it, or displace it")
            if seen is not None and seen != epoch:
                raise FencedError("somebody else took the lease over first", hint="look who holds it, and try again")
            self._epochs[name] = epoch + 1
            self._leases[name] = Lease(name, epoch + 1, holder)
            return self._leases[name]

    def current(self, name: str) -> Incumbent:
        """As the contract says."""
        with self._lock:
            lease = self._leases.get(name)
            return Incumbent(self._epochs.get(name, 0), None if lease is None else lease.holder)

    def release(self, lease: Lease) -> None:
        """As the contract says."""
        lease.end()
        with self._lock:
            if self._leases.get(lease.name) is lease:
                del self._leases[lease.name]
