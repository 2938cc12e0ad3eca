"""User identity negotiation as bytes (PS3.7 D.3.3.7): decoded whole or refused, answered if wanted, never kept."""

import struct

import pytest

from coffer.server.dimse.protocol import associate, negotiation, pdu
from coffer.server.dimse.protocol.associate import ContextItem, Notices
from coffer.server.dimse.protocol.pdu import ProtocolError
from coffer.server.identity.claim import UserIdentity

CONTEXTS = [ContextItem(1, ("1.2.840.10008.1.2",), negotiation.VERIFICATION)]
SECRET = UserIdentity(2, "Müller".encode(), b"correct horse", wants_response=True)


def request(identity: UserIdentity | None) -> bytes:
    notices = Notices(16384, "1.2", "X", {}, identity)
    return associate.encode(pdu.ASSOCIATE_RQ, associate.titles("ANNA", "COFFER"), CONTEXTS, notices)[6:]


def test_what_is_stated_is_read() -> None:
    for identity in (SECRET, UserIdentity(5, b"a.b.c"), UserIdentity(1, b""), None):
        assert negotiation.parse_request(request(identity)).identity == identity
    assert "horse" not in repr(negotiation.parse_request(request(SECRET)))


def test_an_accepted_identity_is_answered_if_that_is_wanted() -> None:
    for identity, expected in ((SECRET, True), (UserIdentity(2, b"a", b"b"), False), (None, False)):
        answer, _ = negotiation.accept(negotiation.parse_request(request(identity)), accept_unknown=True, max_pdu=16384)
        assert (b"\x59\x00\x00\x02\x00\x00" in answer) == expected


@pytest.mark.parametrize("reserved", [0, 1, 255])
def test_no_request_with_a_secret_stays_in_memory(reserved: int) -> None:
    negotiation._remembered.cache_clear()
    body = request(SECRET)
    at = body.index(b"\x58\x00")
    odd = body[: at + 1] + bytes([reserved]) + body[at + 2 :]
    assert negotiation.parse_request(odd).identity == SECRET
    assert negotiation._remembered.cache_info().currsize == 0
    negotiation.parse_request(request(None))
    assert negotiation._remembered.cache_info().currsize == 1


def test_an_item_that_is_not_whole_is_refused() -> None:
    whole = struct.pack(">BBH", 2, 0, 1) + b"a" + struct.pack(">H", 1) + b"b"
    for content in (*(whole[:length] for length in range(len(whole))), whole + b"x"):
        body = request(None)
        item = struct.pack(">BxH", 0x58, len(content)) + content
        start = body.index(b"\x50\x00")
        length = int.from_bytes(body[start + 2 : start + 4], "big") + len(item)
        with pytest.raises(ProtocolError):
            negotiation.parse_request(body[:start] + struct.pack(">BxH", 0x50, length) + body[start + 4 :] + item)
