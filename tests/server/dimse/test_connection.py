"""PDUs come whole, however the network cuts them, and nothing waits or grows for what a peer only claims."""

import socket
import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import pdu
from coffer.server.dimse.protocol.channel import Channel, Context
from coffer.server.dimse.protocol.command import parse_command
from coffer.server.dimse.protocol.connection import Connection, ConnectionClosed
from coffer.server.dimse.protocol.pdu import ProtocolError

MAX_PDU = 64 << 10


def pair(gap_seconds: float = 5.0) -> tuple[socket.socket, Connection]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer, Connection(ours, max_pdu=MAX_PDU, gap_seconds=gap_seconds)


def framed(body: bytes) -> bytes:
    return pdu.HEADER.pack(pdu.P_DATA, len(body)) + body


BODIES = st.lists(
    st.integers(0, 40_000).map(lambda n: bytes(range(256)) * (n // 256) + bytes(n % 256)) | st.binary(max_size=40),
    max_size=6,
)


@given(BODIES, st.data())
def test_pdus_come_whole_however_they_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(framed, bodies))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    peer, connection = pair()

    def send() -> None:
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            peer.sendall(stream[start:stop])
        peer.close()

    sender = threading.Thread(target=send)
    sender.start()
    came = []
    for _ in bodies:
        kind, body = connection.read_pdu(5.0)
        assert kind == pdu.P_DATA
        came.append(bytes(body))
    assert came == bodies
    with pytest.raises(ConnectionClosed):
        connection.read_pdu(5.0)
    sender.join()
    connection.close()


def test_it_grows_with_what_was_announced_and_no_further() -> None:
    peer, connection = pair()
    assert len(connection._buffer) <= 16 << 10
    peer.sendall(framed(bytes(MAX_PDU)) * 5)
    for _ in range(5):
        assert len(connection.read_pdu(5.0)[1]) == MAX_PDU
    assert len(connection._buffer) <= 2 * MAX_PDU + pdu.HEADER.size
    peer.sendall(pdu.HEADER.pack(pdu.P_DATA, 0xFFFFFFFF))
    with pytest.raises(ProtocolError):
        connection.read_pdu(5.0)
    assert len(connection._buffer) <= 2 * MAX_PDU + pdu.HEADER.size
    peer.close()
    connection.close()


def test_dripping_bytes_gain_no_time() -> None:
    peer, connection = pair(gap_seconds=0.3)
    stop = threading.Event()

    def drip() -> None:
        for byte in framed(bytes(1000)):
            if stop.wait(0.05):
                return
            peer.sendall(bytes((byte,)))

    dripper = threading.Thread(target=drip)
    dripper.start()
    with pytest.raises(ConnectionClosed, match="silent"):
        connection.read_pdu(5.0)
    stop.set()
    dripper.join()
    peer.close()
    connection.close()


def test_what_was_read_ahead_is_waiting() -> None:
    peer, connection = pair()
    peer.sendall(framed(b"one") + framed(b"two"))
    time.sleep(0.05)
    assert bytes(connection.read_pdu(5.0)[1]) == b"one"
    assert connection.is_readable()
    assert bytes(connection.read_pdu(5.0)[1]) == b"two"
    assert not connection.is_readable()
    peer.close()
    connection.close()


def test_a_slow_reader_gets_everything_and_one_that_stops_costs_a_bounded_time() -> None:
    peer, connection = pair(gap_seconds=2.0)
    buffers = [bytes([n % 256]) * (7 << 10) for n in range(4000)]  # far more than the kernel keeps for one peer
    came = bytearray()

    def read() -> None:
        while part := peer.recv(1 << 20):
            came.extend(part)
            time.sleep(0.0005)

    reader = threading.Thread(target=read)
    reader.start()
    connection.send(buffers)
    connection.cut()
    reader.join()
    assert bytes(came) == b"".join(buffers)
    peer, connection = pair(gap_seconds=0.2)
    with pytest.raises(ConnectionClosed):
        connection.send(buffers)
    connection.cut()
    peer.close()


@given(st.lists(st.integers(0, 900), max_size=12))
def test_a_data_set_in_pieces_of_any_size_leaves_in_full_fragments(sizes: list[int]) -> None:
    peer, connection = pair()
    context = Context(1, "1.2", "1.3")
    channel = Channel(connection, {1: context}, peer_max_pdu=262, gap_seconds=5.0)
    pieces = [bytes([n + 1]) * size for n, size in enumerate(sizes)]
    channel.hold(channel.frames(context, {dimse.FIELD: 1}))
    assert channel.send(context, {dimse.FIELD: 2}, pieces) == sum(sizes)
    connection.cut()
    receiver = Connection(peer, max_pdu=262, gap_seconds=5.0)
    pdvs = []
    while True:
        try:
            pdvs += [(p.is_command, p.is_last, bytes(p.data)) for p in pdu.split(receiver.read_pdu(5.0)[1])]
        except ConnectionClosed:
            break
    receiver.cut()
    assert [parse_command(data).number(dimse.FIELD) for is_command, _, data in pdvs if is_command] == [1, 2]
    fragments = [(is_last, data) for is_command, is_last, data in pdvs[2:]]
    assert b"".join(data for _, data in fragments) == b"".join(pieces)
    assert [is_last for is_last, _ in fragments] == [False] * (len(fragments) - 1) + [True]
    assert {len(data) for _, data in fragments[:-1]} <= {256}


def test_a_peer_that_takes_tiny_pdus_costs_no_more_memory_than_another() -> None:
    """One piece of an object is millions of them; they are made as they are sent."""

    class Counting(Connection):
        most = 0

        def send(self, buffers: Sequence[bytes | memoryview]) -> None:
            self.most = max(self.most, len(buffers))

    ours, theirs = socket.socketpair()
    counting = Counting(ours, max_pdu=262, gap_seconds=5.0)
    context = Context(1, "1.2", "1.3")
    channel = Channel(counting, {1: context}, peer_max_pdu=1, gap_seconds=5.0)
    assert channel.send(context, {dimse.FIELD: 2}, [bytes(1 << 18)]) == 1 << 18
    assert 1000 < counting.most < 5000
    counting.cut()
    theirs.close()
