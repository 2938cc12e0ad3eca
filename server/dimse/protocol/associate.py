"""A-ASSOCIATE-RQ and A-ASSOCIATE-AC as bytes (PS3.8 9.3.2, 9.3.3 and Annex D, PS3.7 D.3.3).

Rule: pure. It knows how a proposal or an answer is written, not what is accepted. Items of a type that it does not know
are skipped, as PS3.8 9.3.1 demands; what it knows must have its length, or the PDU is a ProtocolError. A title or a UID
that is none reads as "": one odd context, or an odd title, is then refused as such, and not the whole PDU.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from coffer.server.dimse.protocol import pdu
from coffer.server.dimse.protocol.pdu import ProtocolError
from coffer.server.identity.claim import UserIdentity

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"

_VERSION: Final = 1
_FIELDS: Final = struct.Struct(
    ">Hxx64s"
)  # protocol version, then AE titles and reserved bytes, which an answer repeats
_TITLES: Final = struct.Struct(">16s16s32x")
_ITEM: Final = struct.Struct(">BxH")
_CONTEXT: Final = struct.Struct(">BxBx")
_LENGTH: Final = struct.Struct(">H")
_MAX_LENGTH: Final = struct.Struct(">I")
_ROLES: Final = struct.Struct(">??")
_APPLICATION, _ABSTRACT, _TRANSFER, _USER = 0x10, 0x30, 0x40, 0x50
_CONTEXTS: Final = {pdu.ASSOCIATE_RQ: 0x20, pdu.ASSOCIATE_AC: 0x21}
_MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS, _ROLE_SELECTION, _IMPLEMENTATION_VERSION = 0x51, 0x52, 0x54, 0x55
_IDENTITY, _IDENTITY_RESPONSE = 0x58, 0x59
_IDENTITY_HEAD: Final = struct.Struct(">BBH")  # PS3.7 Table D.3-14: type, whether a response is wanted, length
_LONGEST_UID: Final = 64


class ContextItem(NamedTuple):
    """One presentation context: a proposal with its abstract syntax, or an answer with its result (Table 9-18)."""

    context_id: int
    transfer_syntaxes: tuple[str, ...]
    abstract_syntax: str = ""
    result: int = 0


class Notices(NamedTuple):
    """The user information: what we say of ourselves, and the roles (SCU, SCP) by SOP class. `max_pdu` 0: no limit.
    `identity` is stated in a request; an answer states that it was accepted (`answers_identity`)."""

    max_pdu: int
    implementation_class: str
    implementation_version: str
    roles: Mapping[str, tuple[bool, bool]]
    identity: UserIdentity | None = None
    answers_identity: bool = False


class Associate(NamedTuple):
    """An association PDU as it was received; `repeated` are the 64 bytes that the answer must repeat (Table 9-17)."""

    repeated: bytes
    application_context: str
    contexts: tuple[ContextItem, ...]
    max_pdu: int
    roles: Mapping[str, tuple[bool, bool]]
    identity: UserIdentity | None = None


def titles(calling_ae: str, called_ae: str) -> bytes:
    """The 64 bytes of an A-ASSOCIATE-RQ from the AE titles on."""
    return _TITLES.pack(called_ae.ljust(16).encode("ascii"), calling_ae.ljust(16).encode("ascii"))


def titles_of(repeated: bytes) -> tuple[str, str]:
    """The calling and the called AE title, without padding; "" where it is no AE title (PS3.5 6.2)."""
    called, calling = _TITLES.unpack(repeated)
    return _title(calling), _title(called)


def encode(kind: int, repeated: bytes, contexts: Iterable[ContextItem], notices: Notices) -> bytes:
    """An A-ASSOCIATE-RQ or -AC, by `kind`, with its header."""
    items = [_item(_APPLICATION, APPLICATION_CONTEXT.encode())]
    items += [_item(_CONTEXTS[kind], _encoded_context(context)) for context in contexts]
    body = _FIELDS.pack(_VERSION, repeated) + b"".join(items) + _item(_USER, _encoded_notices(notices))
    return pdu.HEADER.pack(kind, len(body)) + body


def decode(kind: int, body: bytes) -> Associate:
    """The body of an A-ASSOCIATE-RQ or -AC, by `kind`. Raises ProtocolError if it is cut, or an item of it wrong."""
    if len(body) < _FIELDS.size:
        raise _unreadable()
    application, contexts, max_pdu, roles = "", list[ContextItem](), 0, dict[str, tuple[bool, bool]]()
    identity = None
    for item, value in _items(body[_FIELDS.size :]):
        if item == _APPLICATION:
            application = _uid(value)
        elif item == _CONTEXTS[kind]:
            contexts.append(_decoded_context(kind, value))
        elif item == _USER:
            max_pdu, roles, identity = _decoded_notices(value)
    return Associate(_FIELDS.unpack_from(body)[1], application, tuple(contexts), max_pdu, roles, identity)


def _encoded_context(context: ContextItem) -> bytes:
    abstract = _item(_ABSTRACT, context.abstract_syntax.encode("ascii")) if context.abstract_syntax else b""
    syntaxes = (_item(_TRANSFER, syntax.encode("ascii")) for syntax in context.transfer_syntaxes)
    return _CONTEXT.pack(context.context_id, context.result) + abstract + b"".join(syntaxes)


def _decoded_context(kind: int, value: bytes) -> ContextItem:
    if len(value) < _CONTEXT.size:
        raise _unreadable()
    context_id, result = _CONTEXT.unpack_from(value)
    result = result if kind == pdu.ASSOCIATE_AC else 0  # reserved in a proposal: not tested
    abstract, syntaxes = "", dict[str, None]()
    for item, uid in _items(value[_CONTEXT.size :]):
        if item == _ABSTRACT:
            abstract = _uid(uid)
        elif item == _TRANSFER and not result:  # PS3.8 9.3.3.2: not significant in a refusal, so it may be anything
            syntaxes[_uid(uid)] = None
    syntaxes.pop("", None)  # none, or no UID: as if it were not offered
    return ContextItem(context_id, tuple(syntaxes), abstract, result)


def _encoded_notices(notices: Notices) -> bytes:
    items = [
        _item(_MAXIMUM_LENGTH, _MAX_LENGTH.pack(notices.max_pdu)),
        _item(_IMPLEMENTATION_CLASS, notices.implementation_class.encode("ascii")),
        _item(_IMPLEMENTATION_VERSION, notices.implementation_version.encode("ascii")),
    ]
    for uid, both in notices.roles.items():
        items.append(_item(_ROLE_SELECTION, _LENGTH.pack(len(uid)) + uid.encode("ascii") + _ROLES.pack(*both)))
    if notices.identity is not None:
        items.append(_item(_IDENTITY, _encoded_identity(notices.identity)))
    if notices.answers_identity:
        items.append(_item(_IDENTITY_RESPONSE, _LENGTH.pack(0)))  # PS3.7 Table D.3-15: empty for these types
    return b"".join(items)


def _encoded_identity(identity: UserIdentity) -> bytes:
    head = _IDENTITY_HEAD.pack(identity.kind, identity.wants_response, len(identity.primary))
    return head + identity.primary + _LENGTH.pack(len(identity.secondary)) + identity.secondary


def _decoded_identity(content: bytes) -> UserIdentity:
    if len(content) < _IDENTITY_HEAD.size:
        raise _unreadable()
    kind, wants_response, length = _IDENTITY_HEAD.unpack_from(content)
    middle = _IDENTITY_HEAD.size + length
    start = middle + _LENGTH.size
    if len(content) < start or len(content) != start + int.from_bytes(content[middle:start], "big"):
        raise _unreadable()
    return UserIdentity(kind, content[_IDENTITY_HEAD.size : middle], content[start:], wants_response == 1)


def _decoded_notices(value: bytes) -> tuple[int, dict[str, tuple[bool, bool]], UserIdentity | None]:
    max_pdu, roles, identity = 0, dict[str, tuple[bool, bool]](), None
    for item, content in _items(value):
        if item == _MAXIMUM_LENGTH:
            if len(content) != _MAX_LENGTH.size:
                raise _unreadable()
            (max_pdu,) = _MAX_LENGTH.unpack(content)
        elif item == _ROLE_SELECTION:
            end = _LENGTH.size + int.from_bytes(content[: _LENGTH.size], "big")
            if len(content) != end + _ROLES.size:
                raise _unreadable()
            roles[_uid(content[_LENGTH.size : end])] = _ROLES.unpack_from(content, end)
        elif item == _IDENTITY:
            identity = _decoded_identity(content)
    return max_pdu, roles, identity


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < _ITEM.size:
            raise _unreadable()
        kind, length = _ITEM.unpack_from(data, at)
        start, at = at + _ITEM.size, at + _ITEM.size + length
        if at > len(data):
            raise _unreadable()
        yield kind, data[start:at]


def _uid(value: bytes) -> str:
    """A UID without the padding that some peers add, though PS3.8 Annex F has none; "" for what is no UID."""
    uid = value.removesuffix(b"\0").strip()
    return uid.decode("ascii") if len(uid) <= _LONGEST_UID and uid.isascii() else ""


def _title(value: bytes) -> str:
    """A title, padded with spaces (PS3.8 9.3.2) or, as by older modalities, ended by a NUL."""
    title = value.partition(b"\0")[0].decode("ascii", "replace").strip()
    return title if title.isascii() and title.isprintable() and "\\" not in title else ""


def _unreadable() -> ProtocolError:
    return ProtocolError("an association PDU cannot be read", pdu.INVALID_VALUE)
