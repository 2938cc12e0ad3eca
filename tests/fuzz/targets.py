"""What is fuzzed: functions of bytes, each with the errors that it may raise and what must hold when it raises none.

Rule: pure; an input always does the same. Any other exception, or an assertion that fails, is a finding, whose input
becomes a file of `vectors/`.
"""

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from coffer.index.dicom import headers
from coffer.index.dicom.headers import HeaderLimits
from coffer.index.dicom.identifier import encode_identifier
from coffer.index.instance.entry import Identity, could_be_extracted, extract
from coffer.index.instance.identity import PartId
from coffer.keys.errors import InputError
from coffer.server.config.settings import Limits
from coffer.server.dimse.protocol import associate, negotiation, pdu
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.channel import AssociationEnded, Channel, Context
from coffer.server.dimse.protocol.connection import Connection, ConnectionClosed
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from coffer.server.dimse.protocol.pdu import ProtocolError
from coffer.server.engine.commit import Sealed
from coffer.server.identity.claim import AssociationClaim, IdentityType, UserIdentity
from coffer.server.workers import checks
from coffer.server.workers import messages as m
from coffer.server.workers.checks import BrokenRule, Now

__all__ = ["TARGETS", "Target"]

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_MAX_PDU: Final = 16384
_NOW: Final = Now(1_700_000_000_000, 1000.0)
_LIMITS: Final = Limits()
# Never by the clock: an input always does the same. Small, because a few bytes inflate to millions, and an input that
# walks through a hundred thousand elements takes the time of a thousand others.
_HEADER_LIMITS: Final = HeaderLimits(bytes=64 << 10, elements=2000, seconds=60.0)


@dataclass(frozen=True, slots=True)
class Target:
    """What is called with each input, and well-formed inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


class _Peer:
    """A connection whose peer sends these bytes and leaves."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read_pdu(self, _: float) -> tuple[int, memoryview]:
        """As `Connection.read_pdu`."""
        if len(self._data) < pdu.HEADER.size:
            raise ConnectionClosed
        kind, length = pdu.parse_header(self._data[: pdu.HEADER.size], _MAX_PDU)
        end = pdu.HEADER.size + length
        if len(self._data) < end:
            raise ConnectionClosed
        body, self._data = self._data[pdu.HEADER.size : end], self._data[end:]
        return kind, body


def _association(data: bytes) -> None:
    """Everything that a peer may send from its first byte on: PDUs, the request, command sets, data fragments."""
    peer = _Peer(data)
    contexts = {1: Context(1, CT, EXPLICIT_LE, False), 3: Context(3, FIND, IMPLICIT_LE, False)}
    with contextlib.suppress(ProtocolError, AssociationEnded, ConnectionClosed):
        if data[:1] == b"\x01":
            _, body = peer.read_pdu(0.0)
            contexts = _negotiated(bytes(body))
        channel = Channel(cast("Connection", peer), contexts, peer_max_pdu=_MAX_PDU, gap_seconds=1.0)
        taken = 0

        def take(piece: memoryview) -> None:
            nonlocal taken
            taken += len(piece)

        while True:
            context, command = channel.read_command(0.0)
            assert contexts[context.context_id] is context
            assert 0 <= command.number(dimse.FIELD) <= 0xFFFF
            if command.has_data_set:
                channel.read_data(context, take)
            assert taken < len(data)


def _negotiated(body: bytes) -> dict[int, Context]:
    request = negotiation._parsed(body)  # without its memory of earlier ones
    answer, contexts = negotiation.accept(request, accept_unknown=True, max_pdu=_MAX_PDU)
    read = associate.decode(pdu.ASSOCIATE_AC, answer[pdu.HEADER.size :])
    assert read.repeated == request.repeated
    assert [each.context_id for each in read.contexts] == [each.context_id for each in request.offers]
    assert {each.context_id for each in read.contexts if each.result == 0} == set(contexts)
    return dict(contexts)


def _message(data: bytes) -> None:
    """What a worker sends over a line, and over its control socket."""
    with contextlib.suppress(msgspec.DecodeError):
        m.decode_pulse(data)
    with contextlib.suppress(msgspec.DecodeError):
        m.decode_ready(data)
    try:
        request = m.decode_request(data)
        checks.require_sound(request, _LIMITS, _NOW)
    except (msgspec.DecodeError, BrokenRule):
        return
    match request:  # what the committing process relies on
        case m.Commit(sealed, length, path):
            assert 0 < length <= checks.body_limits(_LIMITS)[1]
            assert "/" not in path
            assert could_be_extracted(sealed.entry)
            assert m.decode_request(m.encode(request)) == request
        case m.Identify(claim):
            assert m.decode_request(m.encode(request)) == request, claim


def _identifier(data: bytes) -> None:
    """The identifier of a query; the first byte chooses the transfer syntax."""
    implicit, big_endian = ((True, False), (False, False), (False, True))[data[0] % 3 if data else 0]
    with contextlib.suppress(InputError):
        found = headers.decode_identifier(data[1:], implicit=implicit, big_endian=big_endian)
        encode_identifier(found.values, found.charset, implicit=implicit)


def _header(data: bytes) -> None:
    """The header of a data set, and what the index keeps of it; the first byte chooses the transfer syntax, and whether
    the rest has yet to arrive."""
    syntaxes = (IMPLICIT_LE, EXPLICIT_LE, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50")
    syntax, rest = syntaxes[data[0] % len(syntaxes)] if data else EXPLICIT_LE, data[1:]

    def read(start: int, stop: int) -> bytes:
        return rest[start:stop]

    if data[:1] >= b"\x80":
        found = headers.scan_early(read, syntax, _HEADER_LIMITS)
    else:
        found = headers.scan(read, len(rest), syntax, _HEADER_LIMITS)
    if found is not None:
        assert could_be_extracted(extract(found, Identity(CT, "1.2.3")))


def _pdus() -> tuple[bytes, ...]:
    command = dimse.encode_command({dimse.FIELD: 1, 0x0002: CT, 0x0110: 7, 0x0800: 1, 0x1000: "1.2.3.4"})
    offers = [Offer(1, CT, (EXPLICIT_LE, IMPLICIT_LE), scu=True, scp=True), Offer(3, FIND, (IMPLICIT_LE,))]
    first = negotiation.request("CALLING", "CALLED", offers, _MAX_PDU)
    store = pdu.data_header(1, len(command), is_command=True, is_last=True) + command
    data = pdu.data_header(1, 4, is_command=False, is_last=True) + b"data"
    end = pdu.release(pdu.RELEASE_RQ)
    return first, first + store + data + end, store + data + store + data, pdu.abort(0, 0), end


def _dataset(*, implicit: bool) -> bytes:
    values = {
        0x00080016: (CT,), 0x00080018: ("1.2.3.4",), 0x0020000D: ("1.2.3",), 0x0020000E: ("1.2.3.1",),
        0x00100010: ("DOE^JOHN",), 0x00100020: ("ID",), 0x00080020: ("20200101-20201231",), 0x00080060: ("CT",),
        0x00081032: ({0x00080100: ("CODE",), 0x00080104: ("Meaning",)},),
    }  # fmt: skip
    return encode_identifier(values, ("ISO_IR 100",), implicit=implicit)


def _headers() -> tuple[bytes, ...]:
    plain = _dataset(implicit=False)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = deflater.compress(plain) + deflater.flush()
    pixels = b"\xe0\x7f\x10\x00OW\x00\x00\x04\x00\x00\x00\x01\x02\x03\x04"
    early = bytes([0x80 + -0x80 % 5 + 1]) + plain + pixels
    return b"\0" + _dataset(implicit=True), b"\1" + plain + pixels, b"\3" + deflated, b"\2" + plain, early


def _messages() -> tuple[bytes, ...]:
    data = b"\1" + _dataset(implicit=False)
    header = headers.scan(lambda start, stop: data[1:][start:stop], len(data) - 1, EXPLICIT_LE, _HEADER_LIMITS)
    entry = extract(header, Identity(CT, "1.2.3.4"))
    sealed = Sealed(
        bytes(16), bytes(32), b"", 0, EXPLICIT_LE, len(data), _NOW.clock_ms, _NOW.monotonic, "CALLING", entry
    )
    filed = msgspec.structs.replace(sealed, body_sha256=bytes(32), previous=bytes(32))
    query = _dataset(implicit=True)
    requests: list[m.Request] = [
        m.Commit(sealed, 5000, ""), m.Commit(filed, 5000, "0123456789abcdef.sealed"), m.StudyKeyFor(PartId("1.2.3")),
        m.KeyOf(bytes(16)), m.Renew(bytes(16)), m.Find(query, True, "study"),
        m.Plan(query, True, "patient", "DEST"), m.More(), m.Stop(), m.AssociationOpened(), m.AssociationClosed(),
        m.Rejected("limit"), m.Aborted("idle"), m.Limited("request-rate"),
        m.Answered("store", 0, 0.5), m.Sent("get", 1, 2),
        m.Identify(AssociationClaim("CALLING", "CALLED", UserIdentity(IdentityType.PASSCODE, b"user", b"word"))),
    ]  # fmt: skip
    return (*map(m.encode, requests), m.encode(m.Pulse("", 0, [(1, 2.0, True)])), m.encode(m.Ready(("a",))))


TARGETS: Final = {
    "pdu": Target(_association, _pdus()),
    "message": Target(_message, _messages()),
    "identifier": Target(_identifier, (b"\0" + _dataset(implicit=True), b"\1" + _dataset(implicit=False))),
    "header": Target(_header, _headers()),
}
