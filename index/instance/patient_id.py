"""The texts that patients are told apart by: Patient ID and its issuer, each whole, whatever the index keeps to show.

Rule: pure. What an index cuts or leaves out must never make two patients one, so this is made of everything that was
received. Within 256 characters it is the value itself, without padding, its case kept (PS3.5 6.2: VR LO); what is
longer, holds a NUL inside, or is of another kind than text counts by its SHA-256 as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from coffer.index.dicom.parser import Element
from coffer.index.dicom.values import PADDING, decode_as

__all__ = ["LONGEST_IDENTITY", "identity_of", "identity_text"]

_KEPT: Final = 256  # characters that are kept as they are
LONGEST_IDENTITY: Final = _KEPT + 1 + 2 * sha256().digest_size


def identity_text(values: Iterable[str]) -> str:
    """What a Patient ID or issuer with these values is told apart by; "" for one that says nothing."""
    text = "\\".join(values).strip(PADDING)
    if len(text) <= _KEPT and "\0" not in text:
        return text
    return f"{text[:_KEPT].replace(chr(0), ' ')}#{_digest(text.encode('utf-8', 'surrogatepass'))}"


def identity_of(tag: int, element: Element | None, charset: tuple[str, ...]) -> str:
    """The same of an element of a data set; "" where there is none, or a sequence, which names nobody."""
    if element is None or not element.raw.strip(PADDING.encode()):
        return ""
    values = decode_as(tag, "LO", element.vr, element.raw, charset)
    return f"#{_digest(element.raw)}" if values is None else identity_text(values)


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
