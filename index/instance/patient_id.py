"""The texts that distinguish patients: Patient ID and its issuer, each complete, whatever the index keeps to show.

Rule: pure. What an index cuts or leaves out must never merge two patients, so these texts are made from everything that
was received. Up to 256 characters the text is the value itself, without padding, in its own case (PS3.5 6.2: VR LO). A
value that is longer, contains a NUL, or is not text is represented by its SHA-256 as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from coffer.index.dicom.elements import Element
from coffer.index.dicom.values import PADDING, decode_as

__all__ = ["LONGEST_IDENTITY", "identity_of", "identity_text"]

_KEPT: Final = 256  # characters that are kept as they are
LONGEST_IDENTITY: Final = _KEPT + 1 + 2 * sha256().digest_size


def identity_text(values: Iterable[str]) -> str:
    """The text that stands for a Patient ID or issuer with these values; "" if they are empty."""
    text = "\\".join(values).strip(PADDING)
    if len(text) <= _KEPT and "\0" not in text:
        return text
    return f"{text[:_KEPT].replace(chr(0), ' ')}#{_digest(text.encode('utf-8', 'surrogatepass'))}"


def identity_of(tag: int, element: Element | None, charset: tuple[str, ...]) -> str:
    """The same for an element of a data set; "" if it is absent or a sequence, which identifies nobody."""
    if element is None or not element.raw.strip(PADDING.encode()):
        return ""
    values = decode_as(tag, "LO", element.vr, element.raw, charset)
    return f"#{_digest(element.raw)}" if values is None else identity_text(values)


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()
