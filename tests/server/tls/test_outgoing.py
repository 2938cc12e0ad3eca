"""Who orders a connection to a destination names a peer of the configuration, and can say nothing else."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from coffer.keys.errors import UnavailableError
from coffer.server.config.settings import Peer
from coffer.server.config.tls import Tls
from coffer.server.dimse.outlet import Outlet
from coffer.server.main.service import Server
from tests.server.filled import free_port
from tests.server.tls_site import Pki, config_of, is_ended, serving

PLAIN = Peer(ae_title="PLAIN", host="127.0.0.1", port=free_port())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("site")
    pki = Pki(folder / "pki")
    pki.own()
    config = config_of(pki, folder, (PLAIN, Peer(ae_title="GONE", host="127.0.0.1", port=free_port(), tls=True)))
    with serving(config) as running:
        yield running


def outlet(server: Server) -> socket.socket:
    assert server._keeper is not None
    return server._keeper.outlet


@pytest.mark.parametrize(
    "order", [b"", b"STRANGER", b"127.0.0.1:22", b"PLAIN", b"GONE\0", b"gone", b"\xff" * 40, b"x" * 5000]
)
def test_an_order_that_names_no_peer_with_tls_is_dropped(server: Server, order: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            socket.send_fds(outlet(server), [order], [theirs.fileno()])
        assert is_ended(ours)
    _still_serves(server)


def test_an_order_with_no_socket_or_too_many_is_dropped(server: Server) -> None:
    outlet(server).send(b"GONE")
    ends = [socket.socketpair() for _ in range(3)]
    socket.send_fds(outlet(server), [b"GONE"], [theirs.fileno() for _, theirs in ends])
    for ours, theirs in ends:
        theirs.close()
        assert is_ended(ours)
        ours.close()
    _still_serves(server)


def test_an_order_with_something_else_than_a_socket_harms_nobody(server: Server) -> None:
    for what in (os.open(os.devnull, os.O_RDWR), os.pipe()[1]):
        socket.send_fds(outlet(server), [b"GONE"], [what])
        os.close(what)
    _still_serves(server)


def _still_serves(server: Server) -> None:
    assert server._keeper is not None
    dial = Outlet(outlet(server), Tls())
    gone = next(peer for peer in server._config.peers if peer.ae_title == "GONE")
    with pytest.raises(UnavailableError, match=r"GONE at 127\.0\.0\.1:.* with TLS: .*refused"):
        dial(gone, 5.0)
    assert server._keeper.deaths == 0


def test_without_the_process_a_peer_with_tls_is_not_called_in_the_clear() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = Peer(ae_title="P", host="127.0.0.1", port=listening.getsockname()[1], tls=True)
        with pytest.raises(UnavailableError, match="with TLS only"):
            Outlet(None, Tls())(peer, 1.0)
        listening.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listening.accept()


def test_nobody_waits_where_too_many_orders_are_waiting() -> None:
    orders, taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer = Peer(ae_title="P", host="127.0.0.1", port=1, tls=True)
    with orders, taken:
        orders.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                orders.send(b"x")
        orders.setblocking(True)
        with pytest.raises(UnavailableError, match="no answer"):
            Outlet(orders, Tls())(peer, 1000.0)
