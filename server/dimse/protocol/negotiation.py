"""What is agreed in an association request and its answer (PS3.8 7.1, 9.3.2 to 9.3.4; PS3.7 D.3).

Rule: pure. pynetdicom encodes and decodes the PDUs and knows the SOP classes; sockets, threads and time are ours. For
storage the first transfer syntax proposed is accepted, whatever it is: what is stored is what was sent. Peers send the
same request each time, and decoding and answering 120 contexts takes 14 ms: the latest requests and answers are cached.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from pynetdicom import presentation
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation

from coffer.server.dimse.protocol import pdu
from coffer.server.dimse.protocol.channel import Context
from coffer.server.dimse.protocol.pdu import ProtocolError
from coffer.server.services.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"

VERIFICATION: Final = "1.2.840.10008.1.1"
_ROOT: Final = "1.2.840.10008.5.1.4.1.2."
FIND: Final = {_ROOT + "1.1": "patient", _ROOT + "2.1": "study"}
MOVE: Final = {_ROOT + "1.2": "patient", _ROOT + "2.2": "study"}
GET: Final = {_ROOT + "1.3": "patient", _ROOT + "2.3": "study"}
SERVICES: Final = frozenset({VERIFICATION, *FIND, *MOVE, *GET})
_SERVICE_SYNTAXES: Final = (EXPLICIT_LE, IMPLICIT_LE)
_MAX_CONTEXTS: Final = 128
_REMEMBERED: Final = 16
_REMEMBERED_BYTES: Final = 32 << 10  # 128 contexts with a few syntaxes each; a larger one takes too much memory
_USER_IDENTITY: Final = b"\x58\0"  # PS3.7 D.3.3.7: may hold a password, which must not be cached
# PS3.8 Table 9-18
_ACCEPTED, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAX = 0, 3, 4


# The Storage Service Class (PS3.4 B.5) and Non-Patient Object Storage (PS3.4 GG.3).
_STORAGE_TABLES: Final = frozenset({"AllStoragePresentationContexts", "NonPatientObjectPresentationContexts"})


def _classes(tables: Collection[str]) -> frozenset[str]:
    """The SOP classes of some of pynetdicom's tables."""
    return frozenset(str(context.abstract_syntax) for name in tables for context in getattr(presentation, name))


STORAGE_CLASSES: Final = _classes(_STORAGE_TABLES)
_STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
_OTHER_TABLES: Final = [n for n in dir(presentation) if n.endswith("PresentationContexts") and "Storage" not in n]
_OTHER_CLASSES: Final = _classes(_OTHER_TABLES) - STORAGE_CLASSES | {_STORAGE_COMMITMENT} | SERVICES


@dataclass(frozen=True, slots=True)
class Offer:
    """One presentation context as proposed; `scu` and `scp` are the roles that the requestor proposes for itself."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    scu: bool = True
    scp: bool = False


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """A decoded association request. `max_pdu` 0 means that the requestor sets no limit.

    `answers` is the cache of `accept`, by its arguments.
    """

    calling_ae: str
    called_ae: str
    application_context: str
    offers: tuple[Offer, ...]
    max_pdu: int
    primitive: A_ASSOCIATE
    answers: dict[tuple[bool, int], tuple[bytes, Mapping[int, Context]]] = field(init=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4), and a word for the metrics."""

    result: int
    source: int
    reason: int
    word: str


WRONG_APPLICATION_CONTEXT: Final = Rejection(1, 1, 2, "application-context")
UNKNOWN_CALLING_AE: Final = Rejection(1, 1, 3, "calling-ae")
UNKNOWN_CALLED_AE: Final = Rejection(1, 1, 7, "called-ae")
TOO_MANY: Final = Rejection(2, 3, 2, "limit")
CONGESTED: Final = Rejection(2, 3, 1, "congestion")


def parse_request(body: bytes) -> AssociationRequest:
    """Decode the body of an A-ASSOCIATE-RQ. Raises ProtocolError for anything else."""
    is_kept = len(body) <= _REMEMBERED_BYTES and _USER_IDENTITY not in body
    return _remembered(body) if is_kept else _parsed(body)


def _parsed(body: bytes) -> AssociationRequest:
    primitive = _decoded(A_ASSOCIATE_RQ(), pdu.ASSOCIATE_RQ, body)
    roles: dict[str, tuple[bool, bool]] = {}
    max_pdu = 0
    for item in primitive.user_information:
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation):
            roles[str(item.sop_class_uid)] = (bool(item.scu_role), bool(item.scp_role))
        elif isinstance(item, MaximumLengthNotification):
            max_pdu = item.maximum_length_received
    offers = []
    for context in primitive.presentation_context_definition_list:
        syntaxes = tuple(str(t) for t in context.transfer_syntax or ())
        scu, scp = roles.get(str(context.abstract_syntax), (True, False))
        offers.append(Offer(int(context.context_id), str(context.abstract_syntax), syntaxes, scu, scp))
    ids = [offer.context_id for offer in offers]
    if len(ids) > _MAX_CONTEXTS or len(set(ids)) != len(ids) or not all(i % 2 and 0 < i < 256 for i in ids):
        raise ProtocolError("presentation context ids are not odd and distinct", pdu.INVALID_VALUE)
    return AssociationRequest(
        primitive.calling_ae_title.strip(),
        primitive.called_ae_title.strip(),
        str(primitive.application_context_name),
        tuple(offers),
        max_pdu,
        primitive,
    )


_remembered = lru_cache(_REMEMBERED)(_parsed)


def is_storage(sop_class: str, *, accept_unknown: bool) -> bool:
    """Whether objects of a class are stored: the classes of the Storage service, and with `accept_unknown` all that
    belong to no other service."""
    return sop_class in STORAGE_CLASSES or (accept_unknown and sop_class not in _OTHER_CLASSES)


def choose(offer: Offer, *, accept_unknown: bool) -> str | int:
    """The transfer syntax accepted for one context, or the result code of its refusal (PS3.8 Table 9-18)."""
    if offer.abstract_syntax in SERVICES:
        return next((t for t in offer.transfer_syntaxes if t in _SERVICE_SYNTAXES), _NO_TRANSFER_SYNTAX)
    if is_storage(offer.abstract_syntax, accept_unknown=accept_unknown):
        return offer.transfer_syntaxes[0] if offer.transfer_syntaxes else _NO_TRANSFER_SYNTAX
    return _NO_ABSTRACT_SYNTAX


def accept(request: AssociationRequest, *, accept_unknown: bool, max_pdu: int) -> tuple[bytes, Mapping[int, Context]]:
    """The A-ASSOCIATE-AC that answers a request, and the accepted contexts by id."""
    key = accept_unknown, max_pdu
    if key not in request.answers:
        request.answers[key] = _answer(request, accept_unknown=accept_unknown, max_pdu=max_pdu)
    return request.answers[key]


def _answer(request: AssociationRequest, *, accept_unknown: bool, max_pdu: int) -> tuple[bytes, Mapping[int, Context]]:
    contexts: dict[int, Context] = {}
    results = []
    for offer in request.offers:
        chosen = choose(offer, accept_unknown=accept_unknown)
        result = PresentationContext()
        result.context_id, result.abstract_syntax = offer.context_id, offer.abstract_syntax
        if isinstance(chosen, str):
            result.transfer_syntax, result.result = [chosen], _ACCEPTED
            contexts[offer.context_id] = Context(offer.context_id, offer.abstract_syntax, chosen, offer.scp)
        else:
            # PS3.8 9.3.3.2: not significant here, but the item must be there.
            result.transfer_syntax, result.result = [IMPLICIT_LE], chosen
        results.append(result)
    answer = A_ASSOCIATE()
    answer.application_context_name = APPLICATION_CONTEXT
    answer.calling_ae_title = request.primitive.calling_ae_title
    answer.called_ae_title = request.primitive.called_ae_title
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = results
    accepted = {context.abstract_syntax for context in contexts.values()}
    roles = [_role(o) for o in _distinct(request.offers) if o.scp and o.abstract_syntax in accepted]
    answer.user_information = [*_notices(max_pdu), *roles]
    return bytes(A_ASSOCIATE_AC(answer).encode()), MappingProxyType(contexts)


def _distinct(offers: Sequence[Offer]) -> Sequence[Offer]:
    return list({offer.abstract_syntax: offer for offer in offers}.values())


def reject(rejection: Rejection) -> bytes:
    """An A-ASSOCIATE-RJ."""
    return pdu.HEADER.pack(pdu.ASSOCIATE_RJ, 4) + bytes((0, rejection.result, rejection.source, rejection.reason))


def request(calling_ae: str, called_ae: str, offers: Sequence[Offer], max_pdu: int) -> bytes:
    """An A-ASSOCIATE-RQ that proposes `offers`."""
    made = A_ASSOCIATE()
    made.application_context_name = APPLICATION_CONTEXT
    made.calling_ae_title, made.called_ae_title = calling_ae, called_ae
    made.calling_presentation_address = made.called_presentation_address = AddressInformation("127.0.0.1", 0)
    proposed = []
    for offer in offers:
        context = PresentationContext()
        context.context_id, context.abstract_syntax = offer.context_id, offer.abstract_syntax
        context.transfer_syntax = list(offer.transfer_syntaxes)
        proposed.append(context)
    made.presentation_context_definition_list = proposed
    made.user_information = [*_notices(max_pdu), *(_role(o) for o in _distinct(offers) if o.scp)]
    return bytes(A_ASSOCIATE_RQ(made).encode())


def parse_accept(body: bytes, offers: Sequence[Offer]) -> tuple[dict[int, Context], int]:
    """The contexts that an A-ASSOCIATE-AC accepts, by id, and the peer's maximum PDU. Raises ProtocolError."""
    primitive = _decoded(A_ASSOCIATE_AC(), pdu.ASSOCIATE_AC, body)
    offered = {offer.context_id: offer for offer in offers}
    contexts = {}
    for context in primitive.presentation_context_definition_results_list:
        offer = offered.get(context.context_id)
        syntax = str(context.transfer_syntax[0]) if context.transfer_syntax else ""
        if offer and context.result == _ACCEPTED and syntax in offer.transfer_syntaxes:
            contexts[offer.context_id] = Context(offer.context_id, offer.abstract_syntax, syntax, offer.scp)
    return contexts, int(primitive.maximum_length_received or 0)


def _notices(max_pdu: int) -> list[Any]:
    length, implementation, version = (
        MaximumLengthNotification(),
        ImplementationClassUIDNotification(),
        ImplementationVersionNameNotification(),
    )
    length.maximum_length_received = max_pdu
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, version]


def _role(offer: Offer) -> Any:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = offer.abstract_syntax, offer.scu, offer.scp
    return role


def _decoded(decoder: Any, kind: int, body: bytes) -> Any:
    try:
        decoder.decode(pdu.HEADER.pack(kind, len(body)) + body)
        return decoder.to_primitive()
    except Exception as error:  # pynetdicom's slicing and validators raise exceptions of any kind
        raise ProtocolError("an association PDU cannot be read", pdu.INVALID_VALUE) from error
