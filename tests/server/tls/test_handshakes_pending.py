"""Handshakes under way: whoever begins many makes room himself, and in a crowd the largest does."""

import socket
import ssl
from typing import cast

from coffer.server.tls.connections import PendingHandshakes


class Callers:
    """Connections, and whether their far ends are still open."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self.pending = PendingHandshakes(most, most_of_one)
        self.held: list[tuple[socket.socket, socket.socket]] = []

    def come(self, *hosts: str) -> None:
        for host in hosts:
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            self.held.append((ours, theirs))
            self.pending.enter(cast("ssl.SSLSocket", ours), host)

    def cut(self) -> list[int]:
        """The numbers of those that were cut."""
        return [number for number, (_, theirs) in enumerate(self.held) if _is_over(theirs)]

    def close(self) -> None:
        for pair in self.held:
            for each in pair:
                each.close()


def _is_over(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


def test_one_address_cuts_its_own_oldest() -> None:
    callers = Callers(10, 2)
    callers.come("b", "a", "a", "a", "b")
    assert callers.cut() == [1]
    assert callers.pending.leave(cast("ssl.SSLSocket", callers.held[2][0]))
    assert not callers.pending.leave(cast("ssl.SSLSocket", callers.held[1][0]))  # it is counted as cut
    callers.close()


def test_in_a_crowd_the_address_that_holds_most_makes_room() -> None:
    callers = Callers(4, 3)
    callers.come("b", "a", "a", "c", "d")
    assert callers.cut() == [1]
    callers.close()
