"""Limits of docs/security/limits.md that show only in a whole server: each has its reaction, and /metrics shows it."""

import contextlib
import os
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coffer.index.dicom.identifier import encode_identifier
from coffer.server.config.settings import Config, Dimse, Http, Keys, Limits, Peer, Storage
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, Offer
from coffer.server.engine.create import create_archive
from coffer.server.main.demo import encoded, sample_study
from coffer.server.main.service import Server
from tests.server.dimse.raw_peer import Broken, RawRequestor
from tests.server.filled import free_port
from tests.server.tls_site import until

FIND, MOVE = max(negotiation.FIND), max(negotiation.MOVE)
SAMPLE = sample_study()[0]
CT, UID, STUDY = (str(getattr(SAMPLE, name)) for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"))
DEFLATED = "1.2.840.10008.1.2.1.99"
OFFERS = [
    Offer(1, negotiation.VERIFICATION, (EXPLICIT_LE,)),
    Offer(3, CT, (EXPLICIT_LE,)),
    Offer(5, FIND, (EXPLICIT_LE,)),
    Offer(7, MOVE, (EXPLICIT_LE,)),
    Offer(9, CT, (DEFLATED,)),
]
TOO_MANY = (1, 2, 3, 2)


def stored(peer: RawRequestor, data: bytes, context: int = 3) -> int:
    peer.request(peer.contexts[context], dimse.C_STORE, data, AFFECTED_INSTANCE=UID)
    return peer.final().status


def small_object(peer: RawRequestor) -> int:
    return stored(peer, encoded(SAMPLE))


def large_object(peer: RawRequestor) -> int:
    tail = os.urandom(2 << 20)  # does not get smaller
    return stored(peer, encoded(SAMPLE) + struct.pack("<HHHHI", 0x7FE1, 0x0010, 0x424F, 0, len(tail)) + tail)


def many_elements(peer: RawRequestor) -> int:
    extra = b"".join(struct.pack("<HHHH", 0x0009, 0x1000 + n, 0x4F4C, 0) for n in range(200))
    at = encoded(SAMPLE).index(struct.pack("<HH", 0x0010, 0x0010))
    return stored(peer, encoded(SAMPLE)[:at] + extra + encoded(SAMPLE)[at:])


def deflate_bomb(peer: RawRequestor) -> int:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = encoded(SAMPLE)
    bomb = plain[: plain.index(struct.pack("<HH", 0x0010, 0x0010))]
    bomb += struct.pack("<HHHHI", 0x0009, 0x1000, 0x424F, 0, 20 << 20) + bytes(20 << 20)
    return stored(peer, deflater.compress(bomb) + deflater.flush(), 9)


def wide_identifier(peer: RawRequestor) -> int:
    keys = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: ("1.2",) * 10_001}, (), implicit=False)
    peer.request(peer.contexts[5], dimse.C_FIND, keys)
    return peer.final().status


def move_to_a_silent_destination(peer: RawRequestor) -> int:
    assert stored(peer, encoded(SAMPLE)) == 0
    keys = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: (STUDY,)}, (), implicit=False)
    peer.request(peer.contexts[7], dimse.C_MOVE, keys, DESTINATION="SILENT")
    last = peer.final()
    assert last.counters[2] == 1  # failed
    return last.status


def one_more_association(peer: RawRequestor) -> tuple[int, ...]:
    """While the only place is taken by an association that works."""
    port = peer.connection._socket.getpeername()[1]
    with pytest.raises(Broken) as refused:
        RawRequestor(port, OFFERS)
    return (1, *refused.value.body[1:])


@dataclass(frozen=True, slots=True)
class Row:
    """A limit of the page, how it is met, the reaction, and where it is seen."""

    act: Callable[[RawRequestor], object]
    reaction: object
    metric: str
    labels: dict[str, str]
    limits: dict[str, Any] = field(default_factory=dict)
    dimse: dict[str, Any] = field(default_factory=dict)


REJECTED, REACHED, FAILED = "coffer_associations_rejected_total", "coffer_limits_reached_total", "coffer_failures_total"
ROWS = {
    "associations in all": Row(
        one_more_association, TOO_MANY, REJECTED, {"reason": "limit"}, dimse={"max_associations": 1}
    ),
    "what is in an identifier": Row(wide_identifier, 0xA900, FAILED, {"service": "find", "status": "A900"}),
    "data set of an object": Row(
        large_object, 0xA700, FAILED, {"service": "store", "status": "A700"}, {"max_object_bytes": 1 << 20}
    ),
    "objects in memory, all together": Row(
        large_object, 0, REACHED, {"limit": "memory"}, {"memory_total_bytes": 1 << 20, "memory_object_bytes": 64 << 10}
    ),
    "header that is read for the index": Row(
        many_elements, 0, "coffer_unindexed_objects", {}, {"header_elements": 100}
    ),
    "deflated data set, inflated for the index": Row(deflate_bomb, 0, "coffer_unindexed_objects", {}),
    "wait for a C-MOVE destination": Row(
        move_to_a_silent_destination, 0xA702, FAILED, {"service": "move", "status": "A702"},
        dimse={"destination_seconds": 0.3},
    ),
}  # fmt: skip


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """The port of a destination that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def shown(server: Server, row: Row) -> float:
    labels = ",".join(f'{name}="{value}"' for name, value in row.labels.items())
    name = row.metric + (f"{{{labels}}}" if labels else "")
    found = re.search(rf"^{re.escape(name)} (\S+)$", server._metrics.render().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("name", ROWS)
def test_a_limit_has_its_reaction_and_is_counted(tmp_path: Path, name: str) -> None:
    row = ROWS[name]
    with silence() as port:
        config = Config(
            archive=tmp_path / "archive",
            keys=Keys(key_file=tmp_path / "key"),
            dimse=msgspec.structs.replace(Dimse(port=free_port(), processes=1), **row.dimse),
            http=Http(enabled=False),
            limits=msgspec.structs.replace(Limits(), **row.limits),
            storage=Storage(reserve_bytes=0),
            peers=(Peer(ae_title="SILENT", host="127.0.0.1", port=port),),
        )
        create_archive(config)
        with Server(config) as server, RawRequestor(config.dimse.port, OFFERS) as peer:
            peer.request(peer.contexts[1], dimse.C_ECHO)
            assert peer.final().status == 0
            assert shown(server, row) == 0
            assert row.act(peer) == row.reaction
            until(lambda: shown(server, row) >= 1)
