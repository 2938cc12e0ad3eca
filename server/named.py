"""The UID, Patient ID or issuer that somebody types, as the index has it: the same for what is held and what is erased.

Rule: what is stored is found as it is stored, however odd; else the white space around it goes, such as the line ends
of a list. Text that no stored object can have is refused: a hold on it would hold nothing, and nobody would notice.
"""

from collections.abc import Callable
from typing import Final

from index.patientid import identity_text
from keys.errors import InputError

__all__ = ["identity", "is_named", "patient_id", "uid"]

_PADDING: Final = " \0"  # as the index takes it from what objects say
_LONGEST_UID: Final = 1024  # as `index.bounds` has it: of a longer one nothing is kept


def uid(text: str, is_stored: Callable[[str], bool]) -> str:
    """A UID as the index has it, "" for none. Raises InputError for what is none, and is not stored either."""
    exact, bare = text.strip(_PADDING), _bare(text)
    if exact != bare and is_stored(exact):
        return exact
    if not bare or is_stored(bare):
        return bare
    if len(bare) > _LONGEST_UID or any(not _is_plain(each) or each.isspace() or each in "\\\0" for each in bare):
        raise InputError(
            "this is no UID: it has spaces, control characters or others that no stored UID has, or too many",
            hint="give one UID at a time, digits and dots, as coffer find shows it",
        )
    return bare


def patient_id(text: str, is_stored: Callable[[str], bool]) -> str:
    """A Patient ID or issuer as the index has it, as `uid`; spaces and other alphabets are usual in it."""
    exact, bare = (
        "\\".join(value.strip(_PADDING) for value in each.split("\\")) for each in (text.strip(_PADDING), _bare(text))
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
    """What a Patient ID or issuer that was typed is compared as."""
    return identity_text((text,))


def is_named(text: str | None, value: str) -> bool:
    """Whether a Patient ID or issuer of a part is the one that was typed, or shown; None: any is."""
    return text is None or value in {identity(text), text}


def _bare(text: str) -> str:
    """Without padding and white space around it."""
    while (less := text.strip().strip(_PADDING)) != text:
        text = less
    return text


def _is_plain(character: str) -> bool:
    return character.isprintable() and ord(character) < 256
