"""Who may do what only one process at a time may do, and under which epoch: the lease, and whoever grants it.

Rule: a lease decides who *tries*. Who *may* is decided where the work is committed, by comparing epochs: a holder that
was stopped for an hour does not know that it was displaced, and no clock can tell it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from coffer.keys.disk.lock import Holder
from coffer.keys.errors import FencedError

__all__ = ["EpochAuthority", "Incumbent", "Lease", "held"]


class Lease:
    """The right to do one thing, from `EpochAuthority.acquire` to `release`. Made by an authority alone; two leases are
    the same only if they are one object."""

    __slots__ = ("_is_over", "epoch", "holder", "name")

    def __init__(self, name: str, epoch: int, holder: Holder) -> None:
        self.name = name
        self.epoch = epoch
        self.holder = holder
        self._is_over = False

    def require(self) -> None:
        """Raise FencedError if this process knows that the lease has ended. That it returns promises nothing: whoever
        commits compares epochs as well."""
        if self._is_over:
            raise FencedError(f"the lease of {self.holder} has ended", hint="open the archive again")

    def end(self) -> None:
        """Let `require` raise from here on: for the authority that granted the lease."""
        self._is_over = True


class Incumbent(NamedTuple):
    """The newest epoch that was given for a name (0: none yet), and who holds the lease now; None: nobody."""

    epoch: int
    holder: Holder | None


class EpochAuthority(Protocol):
    """Grants leases by name. Linearizable; what it grants is durable before it returns. Thread-safe.

    An epoch is promised to be greater than any under which another holder, alive or taken for dead, could still write.
    So it need not grow where no such holder can be: flock is released by the kernel and by nothing else than the end of
    its process, and the epoch of a name stays 0 there.
    """

    def acquire(self, name: str, holder: Holder, seen: int | None = None) -> Lease:
        """Grant the lease of a name. `seen` is the epoch of the incumbent to be displaced; None: displace nobody.

        Raises LockedError, naming the holder, if somebody holds the lease and is not, or cannot be, displaced;
        FencedError if the newest epoch is not `seen` any more: somebody else was quicker; UnavailableError. If the
        answer is lost, `current` says who holds the lease; whoever finds itself there, and has no lease in hand,
        displaces itself.
        """
        ...

    def current(self, name: str) -> Incumbent:
        """The newest epoch of a name and who holds the lease. Raises UnavailableError."""
        ...

    def release(self, lease: Lease) -> None:
        """Give a lease up: `lease.require` raises from here on. Harmless when repeated, and for a lease that was
        displaced: whoever holds the name now keeps it. Raises UnavailableError."""
        ...


@contextmanager
def held(authority: EpochAuthority, name: str, holder: Holder) -> Iterator[Lease]:
    """Hold a lease while the block runs, displacing nobody. Raises as `acquire`."""
    lease = authority.acquire(name, holder)
    try:
        yield lease
    finally:
        authority.release(lease)
