"""Helpers for tests of C-MOVE and C-GET: objects in memory, and one request of each kind."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pydicom

from coffer.keys.errors import IntegrityError
from coffer.server.dimse.listener import Listener
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from tests.server.dimse.raw_peer import Message, RawRequestor

CT, JPEG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.4.50"
GET, MOVE = (
    next(uid for uid, model in models.items() if model == "study") for models in (negotiation.GET, negotiation.MOVE)
)
OFFERS = [Offer(1, GET, (IMPLICIT_LE,)), Offer(3, MOVE, (IMPLICIT_LE,)), Offer(5, CT, (EXPLICIT_LE,), scp=True)]


@dataclass(frozen=True)
class Stored:
    """One object in memory."""

    sop_instance: str
    data: bytes = b"data"
    sop_class: str = CT
    transfer_syntax: str = EXPLICIT_LE
    has_problem: bool = False

    @property
    def length(self) -> int:
        return len(self.data)

    def open(self, *, fast: bool = False) -> Iterator[bytes]:
        assert fast, "what goes to a peer is not hashed once more (docs/adr/0039)"
        yield self.data

    def convertible_to(self, transfer_syntax: str) -> bool:
        return False

    def convert_to(self, transfer_syntax: str) -> Iterator[bytes]:
        raise AssertionError


class Damaged(Stored):
    """One whose check fails before its last byte."""

    def open(self, *, fast: bool = False) -> Iterator[bytes]:
        yield self.data[:-1]
        raise IntegrityError("a sealed body does not match its hash")


class Faulty(Stored):
    """One that meets a fault of ours."""

    def open(self, *, fast: bool = False) -> Iterator[bytes]:
        yield self.data[:-1]
        raise ValueError(self.data)


class DamagedLarge(Damaged):
    """One that is not read whole before it is sent."""

    @property
    def length(self) -> int:
        return 17 << 20


class Endless(Stored):
    """One that is on its way for longer than anybody waits."""

    @property
    def length(self) -> int:
        return 1 << 40

    def open(self, *, fast: bool = False) -> Iterator[bytes]:
        for _ in range(1000):
            time.sleep(0.01)
            yield bytes(1 << 10)


def named(count: int) -> list[Stored]:
    return [Stored(f"1.2.{number}") for number in range(count)]


def failed_list(message: Message) -> list[str]:
    """The Failed SOP Instance UID List as pydicom reads it."""
    assert message.data is not None
    implicit = message.context.transfer_syntax == IMPLICIT_LE
    ds = pydicom.filereader.read_dataset(io.BytesIO(message.data), is_implicit_VR=implicit, is_little_endian=True)
    assert list(ds.keys()) == [0x00080058]
    value = ds.FailedSOPInstanceUIDList
    if isinstance(value, bytes):  # more than 65,535 bytes in Explicit VR: with VR UN, which pydicom leaves as it is
        value = value.rstrip(b"\0").decode().split("\\")
    return [str(value)] if isinstance(value, str) else [str(uid) for uid in value]


def get(listener: Listener, keep: Callable[[Message], int] = lambda _: 0, offers: list[Offer] = OFFERS) -> Message:
    with RawRequestor(listener.port, offers) as peer:
        peer.request(peer.context(GET), dimse.C_GET, b"")
        return peer.final(keep)


def move(listener: Listener) -> Message:
    with RawRequestor(listener.port, OFFERS) as peer:
        peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="MOVEDST")
        return peer.final()
