"""The UID, Patient ID or issuer that a user types, as the index has it: the same rule for holds and for erasure.

Rule: a stored value is found exactly as it is stored, however odd; otherwise white space around the text is removed,
such as the line ends of a list. Text that no stored object can have is refused: a hold on it would silently hold
nothing.
"""

from collections.abc import Callable
from typing import Final

from coffer.index.dicom.attributes import STUDY_UID
from coffer.index.dicom.bounds import longest_of
from coffer.index.dicom.values import PADDING
from coffer.index.instance.patient_id import identity_text
from coffer.keys.errors import InputError

__all__ = ["identity", "is_named", "patient_id", "uid"]

_LONGEST_UID: Final = longest_of(STUDY_UID, "UI")


def uid(text: str, is_stored: Callable[[str], bool]) -> str:
    """Return a UID as the index has it, "" for none. Raises InputError for text that is neither a UID nor stored."""
    exact, bare = text.strip(PADDING), _bare(text)
    if exact != bare and is_stored(exact):
        return exact
    if _may_be_uid(bare) or is_stored(bare):
        return bare
    raise InputError(
        "this is no UID: it is too long, or has spaces, control characters or others that no stored UID has",
        hint="give one UID at a time, digits and dots, as coffer find shows it",
    )


def patient_id(text: str, is_stored: Callable[[str], bool]) -> str:
    """Return a Patient ID or issuer as the index has it, like `uid`; spaces and other alphabets are common in it."""
    exact, bare = (
        "\\".join(value.strip(PADDING) for value in each.split("\\")) for each in (text.strip(PADDING), _bare(text))
    )
    if exact != bare and is_stored(exact):
        return exact
    if any(not each.isprintable() for each in bare) and not is_stored(bare):
        raise InputError(
            "this has line ends or other control characters in it, and no stored object has it",
            hint="give one Patient ID (or issuer) at a time, as coffer find --level patient shows it",
        )
    return bare


def identity(text: str) -> str:
    """Return the form in which a typed Patient ID or issuer is compared."""
    return identity_text((text,))


def is_named(text: str | None, value: str) -> bool:
    """Whether a Patient ID or issuer of a part is the one typed, or shown; None matches any."""
    return text is None or value in {identity(text), text}


def _bare(text: str) -> str:
    """Return the text without surrounding padding and white space."""
    while (less := text.strip().strip(PADDING)) != text:
        text = less
    return text


def _may_be_uid(text: str) -> bool:
    return len(text) <= _LONGEST_UID and all(
        each.isprintable() and ord(each) < 256 and not each.isspace() and each != "\\" for each in text
    )
