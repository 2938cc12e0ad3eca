"""The key that an association of a worker holds at the moment, under a lease.

Rule: a key is used only while its lease lasts, which is looked at before each use: a process that was stopped, or that
lost contact with the committing process, uses nothing that was taken away meanwhile. The clock also counts while the
machine sleeps. The lease begins with the question and not with the answer. Where the keyring's feed names the key, the
lease is over at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.memory.secret import Secret
from coffer.keys.store.keyring_store import Changes
from coffer.server.workers.messages import Done, Key, KeyOf, Places, Renew, Renewed, Request, Rows, StudyKeyFor

__all__ = ["Feed", "HeldKey"]

R = TypeVar("R", Key, Renewed, Done, Rows, Places)
Feed: TypeAlias = Callable[[int], Changes]  # the keyring's feed behind a number; about 4 us


class Asks(Protocol):
    """The line to the committing process."""

    def ask_for_key(self, request: StudyKeyFor | KeyOf) -> tuple[Key, Secret]:
        """As `ask`, for a key."""

    def ask(self, request: Request, kind: type[R]) -> R:
        """Send a request and wait for its reply. Raises the error that the other end raised."""


@dataclass(slots=True, eq=False)
class _Held:
    """A key, what it was requested for, until when its lease lasts (seconds of the clock), how long a lease is, and the
    feed's number up to which it was not taken away."""

    wanted: StudyKeyFor | KeyOf
    key: StudyKey
    until: float
    seconds: float
    seen: int


class HeldKey:
    """Holds the last requested key: objects of a study come and go together. Used by the association's thread; `drop`
    also by others."""

    def __init__(self, line: Asks, feed: Feed, clock: Callable[[], float]) -> None:
        """`clock` returns seconds that count while the machine sleeps (`keys.clock.boot_seconds`)."""
        self._line = line
        self._feed = feed
        self._clock = clock
        self._number = 0  # of the feed, as last seen
        self._held: _Held | None = None

    def key(self, wanted: StudyKeyFor | KeyOf) -> StudyKey:
        """Return the key, requested again if it is another one than before, its lease is over or it was taken away."""
        now, held = self._clock(), self._held
        if held is not None and held.wanted == wanted and now < held.until and not self._is_gone(held):
            return held.key
        # The number is read before the request: a key that is taken away in between is found in the feed.
        self._number = self._feed(self._number).counter
        reply, dek = self._line.ask_for_key(wanted)
        key = StudyKey(reply.key_id, dek)
        self._held = _Held(wanted, key, now + reply.lease_seconds, reply.lease_seconds, self._number)
        return key

    def require(self, key_id: bytes) -> None:
        """Return if this key may be used now; its lease is renewed when half of it is over.

        Raises ShreddedError, SupersededError or KeyUnavailableError where it was taken away, UnavailableError where
        nobody can be asked.
        """
        now, held = self._clock(), self._held
        if held is not None and held.key.key_id != key_id:
            held = None
        if held is not None and now < held.until - held.seconds / 2 and not self._is_gone(held):
            return
        number = self._feed(self._number).counter
        reply = self._line.ask(Renew(key_id), Renewed)
        if held is not None:
            held.until, held.seconds, held.seen = now + reply.lease_seconds, reply.lease_seconds, number

    def drop(self) -> None:
        """Drop the key: the next use requests it."""
        self._held = None

    def drop_if_over(self) -> bool:
        """Drop the key if its lease is over or it was taken away, so that an idle association keeps none; return
        whether it was dropped. Raises UnavailableError, IntegrityError for the keyring."""
        held = self._held
        if held is not None and (self._clock() >= held.until or self._is_gone(held)):
            self.drop()
            return True
        return False

    def _is_gone(self, held: _Held) -> bool:
        number, gone = self._feed(held.seen)
        if gone is None or held.key.key_id in gone:
            return True
        held.seen = number
        return False
