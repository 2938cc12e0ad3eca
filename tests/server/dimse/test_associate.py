"""Association PDUs as bytes: pynetdicom reads what we write and writes what we read, and it knows the same classes."""

import pytest
from pynetdicom import presentation
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import ImplementationVersionNameNotification, SCP_SCU_RoleSelectionNegotiation

from coffer.server.dimse.protocol import associate, negotiation, pdu
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from coffer.server.dimse.protocol.pdu import ProtocolError
from coffer.server.dimse.protocol.sop_classes import OTHER_CLASSES, STORAGE_CLASSES, STORAGE_COMMITMENT
from coffer.server.services.implementation import IMPLEMENTATION_VERSION_NAME

CT = "1.2.840.10008.5.1.4.1.1.2"
OFFERS = [
    Offer(1, CT, (EXPLICIT_LE, IMPLICIT_LE), scu=True, scp=True),
    Offer(3, negotiation.VERIFICATION, (IMPLICIT_LE,)),
    Offer(5, "1.2.3.4", (IMPLICIT_LE,)),
]
STORED = {"AllStoragePresentationContexts", "NonPatientObjectPresentationContexts"}


def request() -> bytes:
    return negotiation.request("PACS", "COFFER", OFFERS, 16384)


def with_item(made: bytes, item: bytes) -> bytes:
    """The body of an association request with one more item at its end."""
    return made[6:] + item


def test_a_request_is_what_pynetdicom_reads_and_writes() -> None:
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(request())
    read = theirs.to_primitive()
    assert (read.calling_ae_title, read.called_ae_title) == ("PACS", "COFFER")
    assert read.application_context_name == associate.APPLICATION_CONTEXT
    assert read.maximum_length_received == 16384
    contexts = read.presentation_context_definition_list
    assert [(c.context_id, c.abstract_syntax, tuple(c.transfer_syntax)) for c in contexts] == [
        (offer.context_id, offer.abstract_syntax, offer.transfer_syntaxes) for offer in OFFERS
    ]
    roles = [each for each in read.user_information if isinstance(each, SCP_SCU_RoleSelectionNegotiation)]
    assert [(each.sop_class_uid, each.scu_role, each.scp_role) for each in roles] == [(CT, True, True)]
    assert negotiation.parse_request(theirs.encode()[6:]).offers == tuple(OFFERS)


def test_an_answer_is_what_pynetdicom_reads_and_writes() -> None:
    asked = negotiation.parse_request(request()[6:])
    answer, contexts = negotiation.accept(asked, accept_unknown=False, max_pdu=131072)
    theirs = A_ASSOCIATE_AC()
    theirs.decode(answer)
    read = theirs.to_primitive()
    results = [(c.context_id, c.result) for c in read.presentation_context_definition_results_list]
    assert results == [(1, 0), (3, 0), (5, 3)]
    versions = [each for each in read.user_information if isinstance(each, ImplementationVersionNameNotification)]
    assert [each.implementation_version_name for each in versions] == [IMPLEMENTATION_VERSION_NAME]
    assert read.maximum_length_received == 131072
    assert negotiation.parse_accept(theirs.encode()[6:], OFFERS) == (contexts, 131072)


def test_an_answer_repeats_what_the_standard_says() -> None:
    body = bytearray(request()[6:])
    body[36:68] = bytes(range(32))
    answer, _ = negotiation.accept(negotiation.parse_request(bytes(body)), accept_unknown=False, max_pdu=0)
    assert answer[10:74] == body[4:68]


def test_an_item_of_an_unknown_type_is_skipped() -> None:
    seen = negotiation.parse_request(with_item(request(), b"\x60\0\0\x03abc"))
    assert seen.offers == tuple(OFFERS)


@pytest.mark.parametrize(
    "item",
    [
        b"\x60\0\0\x04abc",
        b"\x60\0\0",
        b"\x20\0\0\x03\x07\0\0",
        b"\x50\0\0\x07\x51\0\0\x03\0\0\1",
        b"\x50\0\0\x09\x54\0\0\x05\0\x02" + b"1\1\0",
    ],
    ids=["longer than the PDU", "cut header", "cut context", "short length", "cut role"],
)
def test_a_wrong_item_is_refused(item: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        negotiation.parse_request(with_item(request(), item))
    assert caught.value.reason == pdu.INVALID_VALUE


@pytest.mark.parametrize("uid", [b"1" * 65, b"1.2\xe9"])
def test_what_is_no_uid_spoils_nothing_else(uid: bytes) -> None:
    item = bytes((0, 0, len(uid))) + uid
    assert not negotiation.parse_request(with_item(request(), b"\x10" + item)).application_context
    for odd in (b"\x30" + item, b"\x30\0\0\x111.2.840.10008.1.1" + b"\x40" + item):
        context = b"\x07\0\0\0" + odd
        asked = negotiation.parse_request(with_item(request(), b"\x20\0" + bytes((0, len(context))) + context))
        assert asked.offers[:-1] == tuple(OFFERS)
        assert asked.offers[-1].context_id == 7
        assert negotiation.choose(asked.offers[-1], accept_unknown=True) in {3, 4}


@pytest.mark.parametrize("title", [b" " * 16, bytes(16), b"PA\\CS".ljust(16), b"P\xc4CS".ljust(16)])
def test_a_wrong_title_is_none(title: bytes) -> None:
    body = request()[6:]
    asked = negotiation.parse_request(body[:4] + title * 2 + body[36:])
    assert (asked.calling_ae, asked.called_ae) == ("", "")


@pytest.mark.parametrize("title", [b"PACS".ljust(16, b"\0"), b"PACS\0".ljust(16), b" PACS\0rest"])
def test_a_title_ends_with_a_nul_or_with_spaces(title: bytes) -> None:
    body = request()[6:]
    asked = negotiation.parse_request(body[:20] + title.ljust(16, b"\0") + body[36:])
    assert asked.calling_ae == "PACS"


@pytest.mark.parametrize("padding", [b" ", b"\0"])
def test_padding_of_a_uid_is_not_part_of_it(padding: bytes) -> None:
    item = b"\x10\0\0\x06" + b"1.2.3" + padding
    assert negotiation.parse_request(with_item(request(), item)).application_context == "1.2.3"


def test_a_context_that_names_no_class_is_refused() -> None:
    named = b"\x40\0\0\x05" + b"1.2.3"
    seen = negotiation.parse_request(with_item(request(), b"\x20\0\0\x0d\x07\0\0\0" + named))
    assert negotiation.choose(seen.offers[-1], accept_unknown=True) == 3


def test_the_classes_are_those_of_the_standard() -> None:
    """A new edition of pynetdicom brings new classes: add them to `sop_classes`."""
    tables = {name: getattr(presentation, name) for name in dir(presentation) if name.endswith("PresentationContexts")}
    stored = {str(each.abstract_syntax) for name in STORED for each in tables[name]}
    others = {str(each.abstract_syntax) for name, table in tables.items() if "Storage" not in name for each in table}
    assert stored == STORAGE_CLASSES
    assert (others - stored - negotiation.SERVICES) | {STORAGE_COMMITMENT} == OTHER_CLASSES
