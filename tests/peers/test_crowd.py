"""Two hundred connections that say nothing, or little: everybody else is served, and they cost next to nothing."""

import socket
import time
from collections.abc import Callable

import pytest

from coffer.server.dimse.protocol import negotiation, pdu
from coffer.server.dimse.protocol.negotiation import IMPLICIT_LE, Offer
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import store, synthetic

CROWD = 200
_MEBIBYTE = 1 << 20


def test_two_hundred_idle_and_slow_peers_hold_up_nobody(new_coffer: Callable[..., CofferProcess]) -> None:
    coffer = new_coffer(serve=False, workers=2)
    text = coffer.config.read_text().replace(
        "processes = 2", "processes = 2\nmax_associations = 300\nmax_associations_per_peer = 300"
    )
    coffer.config.write_text(text)
    coffer.start()
    items = [synthetic(n, 20_000) for n in range(20)]
    assert {reply.status for reply in store(coffer.port, items[:10])} == {0}
    before = coffer.resident_bytes()
    request = negotiation.request("CROWD", "COFFER", [Offer(1, negotiation.VERIFICATION, (IMPLICIT_LE,))], 16384)
    crowd = []
    for number in range(CROWD):
        sock = socket.create_connection(("127.0.0.1", coffer.port), 5)
        if number % 2:
            sock.sendall(request)  # established, then silent
        else:
            sock.sendall(request[:3])  # never gets to the end of its first PDU
        crowd.append(sock)
    time.sleep(0.5)
    assert {reply.status for reply in store(coffer.port, items[10:])} == {0}
    assert coffer.resident_bytes() - before < CROWD * _MEBIBYTE
    for sock in crowd:
        sock.close()
    assert {reply.status for reply in store(coffer.port, items[:1])} == {0}


@pytest.mark.long
def test_silent_peers_of_other_addresses_keep_nobody_out(new_coffer: Callable[..., CofferProcess]) -> None:
    """Two addresses with all that one may have each, then a whole network of one each: every honest caller gets in."""
    coffer = new_coffer(workers=2)
    request = negotiation.request("CROWD", "COFFER", [Offer(1, negotiation.VERIFICATION, (IMPLICIT_LE,))], 16384)
    for crowd in (["127.0.1.1"] * 32 + ["127.0.2.1"] * 32, [f"127.0.3.{n}" for n in range(1, 60)]):
        silent = [socket.create_connection(("127.0.0.1", coffer.port), 5, (host, 0)) for host in crowd]
        for number, sock in enumerate(silent):
            if number % 3:
                sock.sendall(request)
        time.sleep(4)  # longer than anybody may be silent where places are few
        honest = []
        for _ in range(12):  # who stay, and work
            sock = socket.create_connection(("127.0.0.1", coffer.port), 20)
            sock.sendall(request)
            assert sock.recv(1) == bytes((pdu.ASSOCIATE_AC,))
            honest.append(sock)
            assert {reply.status for reply in store(coffer.port, [synthetic(1)])} == {0}
        for sock in silent + honest:
            sock.close()
    assert 'coffer_associations_rejected_total{reason="idle"}' in coffer.metrics()
