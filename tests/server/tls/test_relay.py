"""Bytes pass in both directions, whole and in order, and the end of one side reaches the other after them."""

import contextlib
import random
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.server.tls.loaded import load_set
from coffer.server.tls.relay import Relay
from tests.server.tls_site import Pki, client_context, is_ended

RANDOM = random.Random(7)


class Line:
    """A peer with TLS, a relay in a thread, and the clear socket of whom it serves."""

    def __init__(self, folder: Path) -> None:
        pki = Pki(folder / "pki")
        pki.own()
        near, far = socket.socketpair()
        server = load_set(pki.tls).contexts.dimse
        wrapped: list[ssl.SSLSocket] = []
        thread = threading.Thread(target=lambda: wrapped.append(server.wrap_socket(near, server_side=True)))
        thread.start()
        self.peer = client_context(pki, pki.peer()).wrap_socket(far, server_hostname="localhost")
        thread.join()
        self.clear, theirs = socket.socketpair()
        self.relay = Relay(wrapped[0], theirs)
        self.thread = threading.Thread(target=self.relay.run, daemon=True)
        self.thread.start()
        for each in (self.peer, self.clear):
            each.settimeout(20)

    def close(self) -> None:
        self.peer.close()
        self.clear.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.close()


def received(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count and (more := sock.recv(1 << 16)):
        got += more
    return bytes(got)


def exchanged(peer: ssl.SSLSocket, data: bytes, count: int) -> bytes:
    """What comes while `data` is sent, in one thread: OpenSSL's connections are not for two at a time."""
    peer.setblocking(False)
    got, sent = bytearray(), 0
    while sent < len(data) or len(got) < count:
        before = sent + len(got)
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent += peer.send(data[sent : sent + (1 << 16)]) if sent < len(data) else 0
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            got += peer.recv(1 << 16)
        if sent + len(got) == before:
            assert any(select.select([peer], [peer] if sent < len(data) else [], [], 20)), "nothing moves"
    return bytes(got)


def test_both_directions_at_the_same_time(line: Line) -> None:
    there, back = RANDOM.randbytes(3_000_001), RANDOM.randbytes(2_500_003)
    got: list[bytes] = []
    sender = threading.Thread(target=line.clear.sendall, args=(back,))
    peer = threading.Thread(target=lambda: got.append(exchanged(line.peer, there, len(back))))
    for each in (sender, peer):
        each.start()
    assert received(line.clear, len(there)) == there
    for each in (sender, peer):
        each.join(20)
    assert got == [back]


def test_what_a_slow_reader_does_not_take_is_not_read_either(line: Line) -> None:
    line.peer.settimeout(1.0)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 64 << 20:
            sent += line.peer.send(bytes(1 << 16))
    assert sent < 32 << 20
    line.clear.sendall(b"meanwhile")  # the other direction is free
    line.peer.settimeout(20)
    assert received(line.peer, 9) == b"meanwhile"


@pytest.mark.parametrize("size", [1, 5, 600_000])
def test_the_last_bytes_of_our_side_reach_the_peer_before_the_end(line: Line, size: int) -> None:
    last = RANDOM.randbytes(size)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(received(line.peer, size + 1)))
    reader.start()
    line.clear.sendall(last)
    line.clear.close()
    reader.join(20)
    assert got == [last]


@pytest.mark.parametrize("says_so", [True, False])
def test_the_last_bytes_of_the_peer_reach_us_before_the_end(line: Line, says_so: bool) -> None:
    last = RANDOM.randbytes(70_000)
    line.peer.sendall(last)
    if says_so:
        threading.Thread(target=line.peer.close).start()
    else:
        socket.socket.shutdown(line.peer, socket.SHUT_RDWR)
    assert received(line.clear, len(last)) == last
    assert is_ended(line.clear)


def test_a_cut_ends_both_sides(line: Line) -> None:
    line.peer.sendall(b"begun")
    assert received(line.clear, 5) == b"begun"
    line.relay.cut()
    assert is_ended(line.peer)
    assert is_ended(line.clear)


def test_idle_it_waits_without_turning(line: Line) -> None:
    line.peer.sendall(b"x")
    assert received(line.clear, 1) == b"x"
    before = line.relay.turns
    assert not is_ended(line.clear, 0.3)
    assert line.relay.turns == before
