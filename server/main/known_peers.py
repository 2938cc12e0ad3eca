"""Who is no stranger to the doors: the peers of the configuration and the users, by address or certificate.

Rule: to be known opens nothing. It gives a place where strangers get none; every decision is made as for anybody else.
"""

import socket
import threading
from collections.abc import Callable
from typing import Final

from coffer.server.access.users import Directory
from coffer.server.config.settings import Config
from coffer.server.host.sockets import display_address
from coffer.server.identity.admission import Connected

__all__ = ["KnownPeersJob"]

_LOOK_SECONDS: Final = 300.0


class KnownPeersJob:
    """The `server.host.job.Job` that looks up the names of peers; one whose name has no address now keeps the last."""

    name: Final = "looking up the names of peers"
    patience_seconds: float | None = 1.0  # a resolver may take its time

    def __init__(self, config: Config, users: Callable[[], Directory]) -> None:
        """`users` gives the users as they are now."""
        self._users = users
        self._addresses: dict[str, frozenset[str]] = {
            peer.host: frozenset({display_address(peer.host)}) for peer in config.peers
        }
        self.stopping = threading.Event()

    def is_stranger(self, by: Connected) -> bool:
        """Whether nothing is known of who calls; False for everybody while nobody is known at all."""
        users = self._users()
        if by.certificate is not None and users.with_certificate(by.certificate) is not None:
            return False
        if any(by.host in known for known in list(self._addresses.values())) or users.has_address(by.host):
            return False
        return bool(self._addresses) or not users.is_open

    def begin(self) -> None:
        """Nothing to do before the first turn."""

    def turn(self) -> float:
        """Look up every name once."""
        for host in self._addresses:
            try:
                found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError:  # no such name now
                continue
            self._addresses[host] = frozenset(display_address(str(each[4][0])) for each in found)
        return _LOOK_SECONDS

    def end(self) -> None:
        """Nothing is kept."""

    def concerns(self) -> list[str]:
        """None: a destination without an address shows when it is called."""
        return []
