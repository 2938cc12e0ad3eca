"""Passwords of users: Argon2id hashes as PHC strings (RFC 9106), made and checked.

Rule: a password is never kept, logged or compared in the clear. Checking one that belongs to nobody costs the same as
checking a wrong one, so that the time does not say which user names there are.
"""

import os
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from coffer.keys.errors import InputError

__all__ = ["hashed", "is_right"]

_SALT, _LENGTH, _PASSES, _LANES, _KIB = 16, 32, 3, 1, 64 * 1024  # RFC 9106 4, the second choice; one thread
_SHORTEST: Final = 12
_LONGEST: Final = 1024
_UTF8: Final = 4  # bytes of a character at most


def hashed(password: str) -> str:
    """The PHC string of a password, with a new salt. Raises InputError for one that is too short or too long."""
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise InputError(f"a password has {_SHORTEST} to {_LONGEST} characters", hint="choose another one")
    made = Argon2id(salt=os.urandom(_SALT), length=_LENGTH, iterations=_PASSES, lanes=_LANES, memory_cost=_KIB)
    return made.derive_phc_encoded(password.encode())


def is_right(password: bytes, phc: str | None) -> bool:
    """Whether a password (UTF-8) has this hash; without one it has not, after as much work."""
    fits = len(password) <= _LONGEST * _UTF8
    try:
        Argon2id.verify_phc_encoded(password if fits else b"", _nobodys() if phc is None else phc)
    except InvalidKey:
        return False
    return fits and phc is not None


@lru_cache(1)
def _nobodys() -> str:
    return hashed(os.urandom(_SALT).hex())
