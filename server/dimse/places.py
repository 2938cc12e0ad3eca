"""The places that associations take, and which of them gives up its place when none is left.

Rule: a silent association never keeps its place from one that wants to work. If all places are taken, an association
that has not done anything yet goes first, then one that has been idle for long and whose address holds more places than
the newcomer's. One in the middle of an operation never goes. Silent neighbours (a /24, in IPv6 a /64) count as one, so
that many addresses gain no more than a single one. Strangers never get the reserved places.
"""

import ipaddress
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from coffer.server.access.certificate import PeerCertificate

__all__ = ["AssociationPlace", "AssociationPlaces"]

_SILENT_SECONDS: Final = 2.0  # after which an association that never did anything may have to go
_SHORT_IDLE_SECONDS: Final = 5.0  # the same for an idle one whose address holds many places
_LONG_IDLE_SECONDS: Final = 30.0  # and for one whose address holds only one more than the newcomer's
_MOST_ENDING: Final = 16  # places that are given away while their previous holders are still ending


@dataclass(slots=True, eq=False)
class AssociationPlace:
    """One association's place. `idle_since` is a monotonic time in seconds; None: an operation is running, or its state
    is not known yet. `certificate` is what the connection has proved over TLS."""

    number: int
    host: str
    idle_since: float | None = None
    is_used: bool = False  # whether the peer has sent any request
    is_ending: bool = False
    is_stranger: bool = False
    certificate: PeerCertificate | None = None
    is_encrypted: bool = False  # whether nobody on the way can read the connection
    is_withdrawn: bool = False  # whether what let the peer in does so no longer


class AssociationPlaces:
    """All places of one listener. Not thread-safe: the caller holds a lock."""

    def __init__(
        self, total: int, per_host: int, clock: Callable[[], float] = time.monotonic, reserved: int = 0
    ) -> None:
        """Of `total` places, strangers never have more than all but `reserved`, of which at most half count."""
        self._for_strangers = total - min(reserved, total // 2)
        self._strangers = 0  # without those that are ending
        self._total = total
        self._per_host = per_host
        self._clock = clock
        self._numbers = itertools.count(1)
        self._taken: dict[int, AssociationPlace] = {}
        self._held: Counter[str] = Counter()  # by host, without those that are ending
        self._ending = 0

    def enter(
        self, host: str, *, is_full: bool = False, is_stranger: bool = False
    ) -> tuple[AssociationPlace | None, AssociationPlace | None]:
        """A place for a newcomer, and the place whose association the caller must end for it. (None, None): full.

        `is_full` says that there is no room although places are left.
        """
        victim = None
        if self._held[host] >= self._per_host:
            victim = self._longest_silent(host)
        elif is_stranger and self._strangers >= self._for_strangers:
            victim = self._dispensable(host, [place for place in self._idle() if place.is_stranger])
        elif is_full or self._held.total() >= self._total:
            victim = self._dispensable(host, self._idle())
        else:
            return self._take(host, is_stranger=is_stranger), None
        if victim is None or self._ending >= _MOST_ENDING:
            self._forget_empty(host)
            return None, None
        victim.is_ending = True
        self._ending += 1
        self._release(victim)
        return self._take(host, is_stranger=is_stranger), victim

    @property
    def is_full(self) -> bool:
        """Whether no place is left, for known peers either."""
        return self._held.total() >= self._total

    def leave(self, place: AssociationPlace) -> None:
        """An association is over. Harmless if repeated."""
        if self._taken.pop(place.number, None) is None:
            return
        if place.is_ending:
            self._ending -= 1
        else:
            self._release(place)

    def _take(self, host: str, *, is_stranger: bool) -> AssociationPlace:
        place = AssociationPlace(next(self._numbers), host, is_stranger=is_stranger)
        self._taken[place.number] = place
        self._held[host] += 1
        self._strangers += is_stranger
        return place

    def _release(self, place: AssociationPlace) -> None:
        self._held[place.host] -= 1
        self._strangers -= place.is_stranger
        self._forget_empty(place.host)

    def _forget_empty(self, host: str) -> None:
        if not self._held[host]:
            del self._held[host]

    def _longest_silent(self, host: str) -> AssociationPlace | None:
        """Of the associations of one address that never did anything, the one that has been silent for longest."""
        now = self._clock()
        return _longest(place for place in self._idle() if place.host == host and self._is_silent(place, now))

    def _dispensable(self, host: str, among: list[AssociationPlace]) -> AssociationPlace | None:
        now = self._clock()
        silent = [place for place in among if self._is_silent(place, now)]
        if silent:
            networks = Counter(_network(place.host) for place in silent)
            held = self._held
            most = max((networks[_network(place.host)], held[place.host]) for place in silent)
            return _longest(p for p in silent if (networks[_network(p.host)], held[p.host]) == most)
        idle = [place for place in among if self._may_be_ended(place, now, host)]
        most_held = max((self._held[place.host] for place in idle), default=0)
        return _longest(place for place in idle if self._held[place.host] == most_held)

    def _idle(self) -> list[AssociationPlace]:
        return [place for place in self._taken.values() if place.idle_since is not None and not place.is_ending]

    @staticmethod
    def _is_silent(place: AssociationPlace, now: float) -> bool:
        return not place.is_used and place.idle_since is not None and now - place.idle_since >= _SILENT_SECONDS

    def _may_be_ended(self, place: AssociationPlace, now: float, newcomer: str) -> bool:
        if not place.is_used or place.idle_since is None:
            return False
        more, idle = self._held[place.host] - self._held[newcomer], now - place.idle_since
        return idle >= (_SHORT_IDLE_SECONDS if more > 1 else _LONG_IDLE_SECONDS) and more > 0


def _longest(places: Iterable[AssociationPlace]) -> AssociationPlace | None:
    """The one that has been idle for longest."""
    return min(places, key=lambda place: place.idle_since or 0.0, default=None)


def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.split("%", maxsplit=1)[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 64), strict=False))
