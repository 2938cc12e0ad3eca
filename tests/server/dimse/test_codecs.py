"""PDU framing, command sets and negotiation: golden bytes, limits, and nothing but ProtocolError for what is wrong."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.server.dimse.protocol import command, negotiation, pdu
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from coffer.server.dimse.protocol.pdu import ProtocolError

CT, PRIVATE, WORKLIST = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5", "1.2.840.10008.5.1.4.31"
# C-ECHO-RQ of PS3.7 Table 9.3-12: group length, class, field 0030, message id 7, no data set
ECHO = bytes.fromhex(
    "00000000040000003800000000000200120000003 1".replace(" ", "")
    + "2e322e3834302e31303030382e312e3100"
    + "00000001020000003000"
    + "00001001020000000700"
    + "00000008020000000101"
)


def test_a_command_set_is_these_bytes() -> None:
    values = {
        command.AFFECTED_CLASS: negotiation.VERIFICATION,
        command.FIELD: command.C_ECHO,
        command.MESSAGE_ID: 7,
        command.DATA_SET_TYPE: command.NO_DATA_SET,
    }
    assert command.encode_command(values) == ECHO
    parsed = command.parse_command(ECHO)
    assert parsed.text(command.AFFECTED_CLASS) == negotiation.VERIFICATION
    assert (parsed.number(command.FIELD), parsed.number(command.MESSAGE_ID), parsed.has_data_set) == (0x30, 7, False)


def test_an_empty_element_of_a_command_set_is_none() -> None:
    empty = b"\0\0\x30\x10" + bytes(4) + b"\0\0\x31\x10" + bytes(4)  # Move Originator, as old devices send it
    parsed = command.parse_command(ECHO + empty)
    assert parsed == command.parse_command(ECHO)
    with pytest.raises(ProtocolError):
        command.parse_command(b"\0\0\0\x01" + bytes(4))  # of Command Field, nothing is left


@given(st.binary(max_size=300))
def test_a_command_set_of_garbage(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        command.parse_command(data)


@pytest.mark.parametrize("cut", range(1, len(ECHO) - 1))
def test_a_cut_command_set_is_refused_or_lacks_its_end(cut: int) -> None:
    with contextlib.suppress(ProtocolError):
        assert command.parse_command(ECHO[:cut]).values != command.parse_command(ECHO).values


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"\x04\0" + struct.pack(">I", 0xFFFFFFFF), pdu.INVALID_VALUE),
        (b"\x04\0" + struct.pack(">I", 16385), pdu.INVALID_VALUE),
        (b"\x01\0" + struct.pack(">I", (1 << 20) + 1), pdu.INVALID_VALUE),
        (b"\x05\0" + struct.pack(">I", 5), pdu.INVALID_VALUE),
        (b"\x08\0" + struct.pack(">I", 4), pdu.UNRECOGNISED_PDU),
        (b"\x00\0" + struct.pack(">I", 4), pdu.UNRECOGNISED_PDU),
        (b"GET /a", pdu.UNRECOGNISED_PDU),
    ],
)
def test_an_impossible_header_earns_its_abort(header: bytes, reason: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        pdu.parse_header(header, 16384)
    assert (caught.value.source, caught.value.reason) == (pdu.PROVIDER, reason)


@given(st.binary(max_size=200))
def test_pdvs_fill_their_pdu_or_are_refused(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        pdvs = list(pdu.split(memoryview(body)))
        assert sum(len(p.data) + pdu.PDV_OVERHEAD for p in pdvs) == len(body)


@given(data=st.binary(max_size=100), is_command=st.booleans(), is_last=st.booleans())
def test_a_pdv_survives(data: bytes, is_command: bool, is_last: bool) -> None:
    made = pdu.data_header(5, len(data), is_command=is_command, is_last=is_last) + data
    kind, length = pdu.parse_header(made[:6], 1 << 20)
    assert (kind, length) == (pdu.P_DATA, len(made) - 6)
    (pdv,) = pdu.split(memoryview(made)[6:])
    assert (pdv.context_id, pdv.is_command, pdv.is_last, bytes(pdv.data)) == (5, is_command, is_last, data)


@pytest.mark.parametrize(
    ("offer", "unknown", "chosen"),
    [
        (Offer(1, CT, ("1.2.840.10008.1.2.4.80", EXPLICIT_LE)), False, "1.2.840.10008.1.2.4.80"),
        (Offer(1, CT, ("9.9.9",)), False, "9.9.9"),
        (Offer(1, CT, ()), False, 4),
        (Offer(1, PRIVATE, (IMPLICIT_LE,)), True, IMPLICIT_LE),
        (Offer(1, PRIVATE, (IMPLICIT_LE,)), False, 3),
        (Offer(1, WORKLIST, (IMPLICIT_LE,)), True, 3),
        (Offer(1, "1.2.840.10008.5.1.4.39.1", (IMPLICIT_LE,)), False, IMPLICIT_LE),
        (Offer(1, negotiation.VERIFICATION, ("1.2.840.10008.1.2.2", IMPLICIT_LE)), True, IMPLICIT_LE),
        (Offer(1, next(iter(negotiation.FIND)), ("1.2.840.10008.1.2.2",)), True, 4),
    ],
)
def test_what_is_accepted(offer: Offer, unknown: bool, chosen: str | int) -> None:
    assert negotiation.choose(offer, accept_unknown=unknown) == chosen


def test_both_sides_agree() -> None:
    offers = [Offer(1, negotiation.VERIFICATION, (IMPLICIT_LE,)), Offer(3, CT, (EXPLICIT_LE,), scu=False, scp=True)]
    offers.append(Offer(5, WORKLIST, (IMPLICIT_LE,)))
    request = negotiation.parse_request(negotiation.request("PACS", "COFFER", offers, 16384)[6:])
    assert (request.calling_ae, request.called_ae, request.max_pdu) == ("PACS", "COFFER", 16384)
    answer, contexts = negotiation.accept(request, accept_unknown=True, max_pdu=131072)
    assert set(contexts) == {1, 3}
    assert contexts[3].requestor_is_scp
    agreed, peer_max = negotiation.parse_accept(answer[6:], offers)
    assert (agreed, peer_max) == (contexts, 131072)


def test_a_request_that_is_remembered_is_answered_as_it_asks() -> None:
    """One byte or one setting apart is another request; what is too large to be remembered is answered as well."""
    seen = []
    for _ in range(2):
        for caller, syntaxes in (("PACS", 1), ("PACT", 1), ("PACS", 700)):
            offers = [Offer(1, PRIVATE, (IMPLICIT_LE, *(f"1.2.{'9' * 40}.{n}" for n in range(1, syntaxes))))]
            request = negotiation.parse_request(negotiation.request(caller, "COFFER", offers, 16384)[6:])
            assert (request.calling_ae, request.offers) == (caller, tuple(offers))
            for unknown in (True, False):
                answer, contexts = negotiation.accept(request, accept_unknown=unknown, max_pdu=131072)
                assert list(contexts) == ([1] if unknown else [])
                assert caller.encode() in answer
            seen.append(request)
    assert [seen[n] is seen[n + 3] for n in range(3)] == [True, True, False]


def test_a_request_with_a_password_is_not_remembered() -> None:
    """A User Identity item (PS3.7 D.3.3.7.1) behind the others, in the user information that is the last item."""
    body = bytearray(negotiation.request("PACS", "COFFER", [Offer(1, PRIVATE, (IMPLICIT_LE,))], 16384)[6:])
    identity = b"\x02\x01\x00\x05smith\x00\x06secret"
    item = b"\x58\x00" + len(identity).to_bytes(2, "big") + identity
    at = body.index(b"\x50\x00", body.index(b"\x40\x00")) + 2
    body[at : at + 2] = (int.from_bytes(body[at : at + 2], "big") + len(item)).to_bytes(2, "big")
    first, second = (negotiation.parse_request(bytes(body + item)) for _ in range(2))
    assert first is not second
    assert first.calling_ae == second.calling_ae == "PACS"


@given(st.binary(max_size=400))
def test_a_request_of_garbage(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        negotiation.parse_request(body)


@given(at=st.integers(0, 1000), value=st.integers(0, 255))
def test_a_damaged_request(at: int, value: int) -> None:
    body = bytearray(negotiation.request("A", "B", [Offer(1, CT, (EXPLICIT_LE,))], 0)[6:])
    body[at % len(body)] = value
    with contextlib.suppress(ProtocolError):
        negotiation.parse_request(bytes(body))
