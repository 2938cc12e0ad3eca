"""Part 10 files (PS3.10 section 7): find the data set after preamble and file meta, and write these before one.

Rule: the data set's bytes are never changed or parsed beyond their first element; group 0002 is read here element by
element, because its stated length is often wrong in real files. The UIDs that a file states are unverified claims.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

from coffer.keys.errors import InputError
from coffer.server.services.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["MEDIA_DIRECTORY", "Part10", "header_bytes", "looks_like_uid", "read_part10"]

MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"  # SOP class of a DICOMDIR
IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_PREAMBLE, _MAGIC, _HEAD_BYTES = 128, b"DICM", 512
_MAX_META: Final = 1 << 20
_LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_META_GROUP: Final = b"\x02\x00"
_LONGEST_UID: Final = 128
_UID_CHARACTERS: Final = frozenset("0123456789.")
_FIRST_GROUPS: Final = range(0x0004, 0x0020)  # a data set without file meta begins with one of these
_TIFF: Final = (b"II*\0", b"MM\0*")


@dataclass(frozen=True, slots=True)
class Part10:
    """Where the data set of a file starts, and what the file meta states; texts are empty if it states nothing.

    `preamble` and `file_meta` are the bytes of the file (group 0002 without the "DICM"), empty if absent.
    """

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    preamble: bytes
    file_meta: bytes
    start: int


def looks_like_uid(text: str) -> bool:
    """Whether `text` is digits and dots, starts with a digit and is at most 128 long: safe in a file name.

    PS3.5 9.1 allows 64 characters; real files exceed that and must not be refused for it.
    """
    return 0 < len(text) <= _LONGEST_UID and text[0] != "." and set(text) <= _UID_CHARACTERS


def read_part10(file: BinaryIO) -> Part10 | None:
    """Read the beginning of a file that is positioned at its start; its position on return is undefined. None: this is
    not DICOM.

    A file without preamble or without file meta is accepted if its first element looks like DICOM; its transfer syntax
    is then guessed from that element. Raises InputError with the cause in a few words where something is missing.
    """
    head = file.read(_HEAD_BYTES)
    if not head:
        raise InputError("empty file")
    if head[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC:
        preamble, start = head[:_PREAMBLE], _PREAMBLE + len(_MAGIC)
    else:  # some files lost the preamble, or have one of another length
        preamble, start = b"", head.find(_MAGIC + _META_GROUP) + len(_MAGIC)
        start = start if start >= len(_MAGIC) else 0
        if not start and _MAGIC in head:
            raise InputError("cannot be read as DICOM")
    file.seek(start)
    meta, values = _read_meta(file.read)
    file.seek(start + len(meta))
    first = file.read(8)
    guess = _guess_syntax(first)
    if not start and not meta and not guess:
        return None
    if len(first) < 8:
        raise InputError("no data set")
    syntax = _uid(values.get(0x0010, b""))
    return Part10(
        sop_class=_uid(values.get(0x0002, b"")),
        sop_instance=_uid(values.get(0x0003, b"")),
        transfer_syntax=syntax or guess or IMPLICIT_LE,
        preamble=preamble,
        file_meta=meta,
        start=start + len(meta),
    )


def _read_meta(read: Callable[[int], bytes]) -> tuple[bytes, dict[int, bytes]]:
    """The elements of group 0002 as one run of bytes, and their values by element number (PS3.10 7.1, explicit LE)."""
    raw = bytearray()
    values: dict[int, bytes] = {}
    while len(raw) < _MAX_META:
        head = read(8)
        if len(head) < 8 or head[:2] != _META_GROUP:
            break
        vr = head[4:6]
        if vr in _LONG:
            head += read(4)
            length = int.from_bytes(head[8:12], "little")
        elif vr.isalpha() and vr.isupper():
            length = int.from_bytes(head[6:8], "little")
        else:  # some writers encode even the file meta implicitly
            length = int.from_bytes(head[4:8], "little")
        value = read(length) if length <= _MAX_META else b""
        if len(value) != length:
            break  # not file meta: it belongs to the data set
        raw += head + value
        values[int.from_bytes(head[2:4], "little")] = value
    return bytes(raw), values


def _guess_syntax(first: bytes) -> str:
    """The transfer syntax a data set's first eight bytes suggest; empty if they are no element."""
    if len(first) < 8:
        return ""
    little, big = (int.from_bytes(first[:2], order) for order in ("little", "big"))
    named = first[4:6].isalpha() and first[4:6].isupper()
    if little in _FIRST_GROUPS:
        short = int.from_bytes(first[4:8], "little") < 1 << 16
        return EXPLICIT_LE if named else IMPLICIT_LE if short else ""
    return EXPLICIT_BE if big in _FIRST_GROUPS and named else ""


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def header_bytes(stored: Part10, source_ae: str = "") -> bytes:
    """Preamble, "DICM" and file meta for a data set: the stored ones, or new ones if it arrived without.

    A stored preamble is kept if it is empty or a TIFF header; anything else could make the file an executable too.
    """
    zero = bytes(_PREAMBLE)
    preamble = stored.preamble if stored.preamble[:4] in _TIFF else zero
    meta = stored.file_meta or _new_meta(stored, source_ae)
    return preamble.ljust(_PREAMBLE, b"\0") + _MAGIC + meta


def _new_meta(stored: Part10, source_ae: str) -> bytes:
    """Group 0002 with the elements PS3.10 7.1 requires, and the AE title the object came from."""
    elements = _long_element(0x0001, b"\x00\x01")
    for number, uid in (
        (0x0002, stored.sop_class),
        (0x0003, stored.sop_instance),
        (0x0010, stored.transfer_syntax),
        (0x0012, IMPLEMENTATION_CLASS_UID),
    ):
        elements += _element(number, b"UI", uid, b"\0")
    elements += _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" ")
    if source_ae:
        elements += _element(0x0016, b"AE", source_ae[:16], b" ")
    return struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements


def _element(number: int, vr: bytes, text: str, pad: bytes) -> bytes:
    raw = text.encode("ascii", "replace")
    raw += pad * (len(raw) % 2)
    return struct.pack("<HH2sH", 2, number, vr, len(raw)) + raw


def _long_element(number: int, value: bytes) -> bytes:
    return struct.pack("<HH2sxxI", 2, number, b"OB", len(value)) + value
