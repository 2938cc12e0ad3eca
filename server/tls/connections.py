"""The connections: those whose handshake is under way, and those that are open while their certificate is good.

Rule: whoever is let in is judged again by every new set of files, and by the clock: a certificate that is revoked or
has expired, or whose authority may have been taken away, ends its connections.
"""

import contextlib
import socket
import ssl
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Final

from coffer.server.observe.logs import get_logger
from coffer.server.tls.handshake import EXPIRED, REVOKED, Handshake
from coffer.server.tls.material import Material
from coffer.server.tls.relay import Relay

__all__ = ["ENDINGS", "Connections", "PendingHandshakes"]

_log = get_logger()
DISTRUSTED: Final = "authority removed"
ENDINGS: Final = (REVOKED, EXPIRED, DISTRUSTED)


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    relay: Relay
    host: str
    agreed: Handshake
    material: Material


class Connections:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Relay, _Open] = {}
        self._ended: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def ended(self) -> dict[str, int]:
        """How many were ended for their certificate, by reason (`ENDINGS`)."""
        with self._lock:
            return dict(self._ended)

    def run(self, relay: Relay, host: str, agreed: Handshake, material: Material) -> None:
        """Run a relay to its end; meanwhile it may be ended. `material` is the set that let it in."""
        with self._lock:
            self._open[relay] = _Open(relay, host, agreed, material)
        try:
            relay.run()
        finally:
            with self._lock:
                del self._open[relay]

    def end_bad(self, material: Material, now: float) -> None:
        """End those that the present set, or the time `now` in seconds since 1970, no longer lets in."""
        with self._lock:
            found = [(each, _why(each, material, now)) for each in self._open.values()]
        for each, why in found:
            if why:
                self._end(each, why)

    def _end(self, one: _Open, why: str) -> None:
        with self._lock:
            if one.relay not in self._open:
                return
            self._ended[why] += 1
        proved = one.agreed.certificate
        _log.warning(
            "a connection is ended because its certificate is no longer good",
            name="tls.connection_ended",
            reason=why,
            host=one.host,
            subject=proved.subject if proved else "",
            serial=proved.serial if proved else "",
        )
        one.relay.cut()

    def end_all(self) -> None:
        """End every one."""
        with self._lock:
            found = list(self._open)
        for each in found:
            each.cut()


def _why(one: _Open, material: Material, now: float) -> str:
    """Why a connection must end; empty if it may go on."""
    certificate = one.agreed.x509
    if certificate is None:
        return ""
    if material.revokes(certificate):
        return REVOKED
    if certificate.not_valid_after_utc.timestamp() < now:
        return EXPIRED
    return "" if material.still_believes(one.material) else DISTRUSTED


class PendingHandshakes:
    """The connections whose handshake is under way. Silent callers never keep an honest one out: when there are too
    many, the oldest of the address that holds most goes first. Thread-safe."""

    def __init__(self, most: int, most_of_one: int) -> None:
        """`most` in all, `most_of_one` of one address."""
        self._most = most
        self._most_of_one = most_of_one
        self._lock = threading.Lock()
        self._held: dict[ssl.SSLSocket, str] = {}  # in the order of their beginning

    def enter(self, tls: ssl.SSLSocket, host: str) -> None:
        """A handshake begins; for it, another one may be cut."""
        with self._lock:
            victim = self._victim(host)
            if victim is not None:
                del self._held[victim]
                with contextlib.suppress(OSError):  # its thread closes it
                    socket.socket.shutdown(victim, socket.SHUT_RDWR)
            self._held[tls] = host

    def leave(self, tls: ssl.SSLSocket) -> bool:
        """A handshake is over; returns whether it still was under way, and had not been cut. Harmless when repeated."""
        with self._lock:
            return self._held.pop(tls, None) is not None

    def _victim(self, newcomer: str) -> ssl.SSLSocket | None:
        """The handshake that has to go for one with this address, if any has to."""
        held = Counter(self._held.values())
        if held[newcomer] >= self._most_of_one:
            return next(tls for tls, host in self._held.items() if host == newcomer)
        if len(self._held) < self._most:
            return None
        most = max(held.values())
        return next(tls for tls, host in self._held.items() if held[host] == most)
