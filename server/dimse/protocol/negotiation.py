"""What is agreed in an association request and its answer (PS3.8 7.1, 9.3.2 to 9.3.4; PS3.7 D.3).

Rule: pure. `associate` knows the bytes, `sop_classes` the SOP classes. For storage the first transfer syntax proposed
is accepted, whatever it is: what is stored is what was sent. Peers send the same request each time, often with 120
contexts: the latest requests and answers are cached.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from coffer.server.dimse.protocol import associate, pdu
from coffer.server.dimse.protocol.associate import ContextItem, Notices
from coffer.server.dimse.protocol.channel import Context
from coffer.server.dimse.protocol.pdu import ProtocolError
from coffer.server.dimse.protocol.sop_classes import OTHER_CLASSES, STORAGE_CLASSES
from coffer.server.identity.claim import UserIdentity
from coffer.server.observe.reached import Abort, Rejected
from coffer.server.services.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"

VERIFICATION: Final = "1.2.840.10008.1.1"
_ROOT: Final = "1.2.840.10008.5.1.4.1.2."
FIND: Final = {_ROOT + "1.1": "patient", _ROOT + "2.1": "study"}
MOVE: Final = {_ROOT + "1.2": "patient", _ROOT + "2.2": "study"}
GET: Final = {_ROOT + "1.3": "patient", _ROOT + "2.3": "study"}
SERVICES: Final = frozenset({VERIFICATION, *FIND, *MOVE, *GET})
_NOT_STORED: Final = OTHER_CLASSES | SERVICES | {""}  # "": a context without an abstract syntax
_SERVICE_SYNTAXES: Final = (EXPLICIT_LE, IMPLICIT_LE)
_MAX_CONTEXTS: Final = 128
_REMEMBERED: Final = 16
_REMEMBERED_BYTES: Final = 32 << 10  # 128 contexts with a few syntaxes each; a larger one takes too much memory
_USER_IDENTITY: Final = b"\x58\0"  # PS3.7 D.3.3.7: may hold a password, which must not be cached
# PS3.8 Table 9-18
_ACCEPTED, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAX = 0, 3, 4


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

    `repeated` are the bytes of it that the answer repeats (PS3.8 Table 9-17), `answers` is the cache of `accept`, by
    its arguments.
    """

    calling_ae: str
    called_ae: str
    application_context: str
    offers: tuple[Offer, ...]
    max_pdu: int
    repeated: bytes
    identity: UserIdentity | None = None
    answers: dict[tuple[bool, int], tuple[bytes, Mapping[int, Context]]] = field(init=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4), and the word under which it is counted."""

    result: int
    source: int
    reason: int
    word: Rejected


WRONG_APPLICATION_CONTEXT: Final = Rejection(1, 1, 2, Rejected.APPLICATION_CONTEXT)
UNKNOWN_CALLING_AE: Final = Rejection(1, 1, 3, Rejected.CALLING_AE)
UNKNOWN_CALLED_AE: Final = Rejection(1, 1, 7, Rejected.CALLED_AE)
UNPROVED: Final = Rejection(1, 1, 1, Rejected.USER_IDENTITY)  # PS3.7 D.3.3.7.1: no reason is given
TOO_MANY: Final = Rejection(2, 3, 2, Rejected.LIMIT)
CONGESTED: Final = Rejection(2, 3, 1, Rejected.CONGESTION)


def parse_request(body: bytes) -> AssociationRequest:
    """Decode the body of an A-ASSOCIATE-RQ. Raises ProtocolError for anything else."""
    is_kept = len(body) <= _REMEMBERED_BYTES and _USER_IDENTITY not in body
    request = _remembered(body) if is_kept else _parsed(body)
    if is_kept and request.identity is not None:  # its reserved byte was not 0
        _remembered.cache_clear()
    return request


def _parsed(body: bytes) -> AssociationRequest:
    read = associate.decode(pdu.ASSOCIATE_RQ, body)
    calling, called = associate.titles_of(read.repeated)
    offers = tuple(_offer(context, read.roles) for context in read.contexts)
    ids = [offer.context_id for offer in offers]
    if len(ids) > _MAX_CONTEXTS or len(set(ids)) != len(ids) or not all(i % 2 and 0 < i < 256 for i in ids):
        raise ProtocolError("presentation context ids are not odd and distinct", pdu.INVALID_VALUE, Abort.CONTEXTS)
    return AssociationRequest(
        calling, called, read.application_context, offers, read.max_pdu, read.repeated, read.identity
    )


def _offer(context: ContextItem, roles: Mapping[str, tuple[bool, bool]]) -> Offer:
    scu, scp = roles.get(context.abstract_syntax, (True, False))
    return Offer(context.context_id, context.abstract_syntax, context.transfer_syntaxes, scu, scp)


_remembered = lru_cache(_REMEMBERED)(_parsed)


def is_storage(sop_class: str, *, accept_unknown: bool) -> bool:
    """Whether objects of a class are stored: the classes of the Storage service, and with `accept_unknown` all that
    belong to no other service."""
    return sop_class in STORAGE_CLASSES or (accept_unknown and sop_class not in _NOT_STORED)


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
        if isinstance(chosen, str):
            results.append(ContextItem(offer.context_id, (chosen,), result=_ACCEPTED))
            contexts[offer.context_id] = Context(offer.context_id, offer.abstract_syntax, chosen, offer.scp)
        else:
            # PS3.8 9.3.3.2: not significant here, but the item must be there.
            results.append(ContextItem(offer.context_id, (IMPLICIT_LE,), result=chosen))
    accepted = {context.abstract_syntax for context in contexts.values()}
    roles = _roles(offer for offer in request.offers if offer.abstract_syntax in accepted)
    answer = associate.encode(pdu.ASSOCIATE_AC, request.repeated, results, _notices(max_pdu, roles, request.identity))
    return answer, MappingProxyType(contexts)


def _roles(offers: Iterable[Offer]) -> dict[str, tuple[bool, bool]]:
    """The roles of each SOP class, as its last offer has them, if the requestor is to be its SCP."""
    last = {offer.abstract_syntax: offer for offer in offers}
    return {name: (offer.scu, offer.scp) for name, offer in last.items() if offer.scp}


def reject(rejection: Rejection) -> bytes:
    """An A-ASSOCIATE-RJ."""
    return pdu.HEADER.pack(pdu.ASSOCIATE_RJ, 4) + bytes((0, rejection.result, rejection.source, rejection.reason))


def request(calling_ae: str, called_ae: str, offers: Sequence[Offer], max_pdu: int) -> bytes:
    """An A-ASSOCIATE-RQ that proposes `offers`."""
    contexts = [ContextItem(o.context_id, o.transfer_syntaxes, o.abstract_syntax) for o in offers]
    titles = associate.titles(calling_ae, called_ae)
    return associate.encode(pdu.ASSOCIATE_RQ, titles, contexts, _notices(max_pdu, _roles(offers)))


def parse_accept(body: bytes, offers: Sequence[Offer]) -> tuple[dict[int, Context], int]:
    """The contexts that an A-ASSOCIATE-AC accepts, by id, and the peer's maximum PDU. Raises ProtocolError."""
    read = associate.decode(pdu.ASSOCIATE_AC, body)
    offered = {offer.context_id: offer for offer in offers}
    contexts = {}
    for context in read.contexts:
        offer = offered.get(context.context_id)
        syntax = context.transfer_syntaxes[0] if context.transfer_syntaxes else ""
        if offer and context.result == _ACCEPTED and syntax in offer.transfer_syntaxes:
            contexts[offer.context_id] = Context(offer.context_id, offer.abstract_syntax, syntax, offer.scp)
    return contexts, read.max_pdu


def _notices(max_pdu: int, roles: Mapping[str, tuple[bool, bool]], accepted: UserIdentity | None = None) -> Notices:
    answers_identity = accepted is not None and accepted.wants_response
    return Notices(
        max_pdu, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, roles, answers_identity=answers_identity
    )
