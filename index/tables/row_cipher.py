"""Rows sealed under their study's key, and UIDs as tokens: what may reach the disk (FORMAT.md).

Rule: a UID is stored only as HMAC-SHA-256(k_token, kind || uid), a row only sealed under its study's row key and bound
to its place; so destroying a study's key destroys its rows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

from coffer.index.tables.rows import InstanceRow, SeriesRow, StudyRow, decode_row, encode_row
from coffer.keys.crypto import aead
from coffer.keys.crypto.derive import INDEX_TOKEN, hmac_sha256
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import FormatError
from coffer.keys.keyring.keyring import Keyring

__all__ = ["INSTANCE", "KIND_OF_LENGTH", "PART", "SERIES", "STUDY", "Ref", "Row", "RowCipher"]

# A row's key: study number (8), series number in the study (4), instance number in the series (4), big endian.
Ref: TypeAlias = bytes
Row: TypeAlias = StudyRow | SeriesRow | InstanceRow
STUDY, SERIES, INSTANCE, PART = 1, 2, 3, 4  # kinds of tokens; the first three are kinds of rows, too
KIND_OF_LENGTH: Final = {8: STUDY, 12: SERIES, 16: INSTANCE}  # kinds of rows by the length of their reference
_TOKEN_BYTES: Final = 16
_TOKENS_CACHED: Final = 8192
_PAD: Final = 256  # bytes, so that a row's length says little about the names in it
_CONTEXT: Final = b"coffer/index-row/v1\0"
_LENGTH: Final = struct.Struct(">I")


class RowCipher:
    """Seals and opens the rows of one archive, and makes its tokens. Thread-safe."""

    def __init__(self, keyring: Keyring, random: Callable[[int], bytes]) -> None:
        self._keyring = keyring
        self._random = random
        self._token_key = keyring.archive_key(INDEX_TOKEN)
        self._context = _CONTEXT + keyring.archive_id
        self._cached_token = lru_cache(_TOKENS_CACHED)(self._make_token)

    def token(self, kind: int, uid: str) -> bytes:
        """Return the key that stands for a UID on disk: kind, then 16 bytes of HMAC-SHA-256."""
        return self._cached_token(kind, uid)

    def _make_token(self, kind: int, uid: str) -> bytes:
        prefix = bytes((kind,))
        return prefix + hmac_sha256(self._token_key, prefix + uid.encode("utf-8", "surrogatepass"))[:_TOKEN_BYTES]

    def seal(self, ref: Ref, row: Row, key_id: bytes) -> bytes:
        """Return the stored value of a row: study key id (16), the padded row sealed under the study's row key.

        Raises KeyUnavailableError or ShreddedError for the study's key.
        """
        data = encode_row(row)
        plain = _LENGTH.pack(len(data)) + data
        plain += bytes(-len(plain) % _PAD)
        return key_id + aead.seal(self._keyring.study(key_id).row, self._context + ref, plain, self._random)

    def open(self, ref: Ref, stored: bytes, study: Callable[[bytes], StudyKey] | None = None) -> Row:
        """Unseal one stored value; `study` replaces the keyring's look-up of a key by its id.

        Raises IntegrityError or FormatError if it is not the row of this place, KeyUnavailableError or ShreddedError
        for the study's key.
        """
        key = (study or self._keyring.study)(stored[:16])
        plain = aead.open_sealed(key.row, self._context + ref, stored[16:])
        if len(plain) < _LENGTH.size:
            raise FormatError("an index row is cut", hint="run `coffer index rebuild`")
        (length,) = _LENGTH.unpack_from(plain)
        data = plain[_LENGTH.size : _LENGTH.size + length]
        kind = KIND_OF_LENGTH[len(ref)]
        if kind == STUDY:
            return decode_row(StudyRow, data)
        return decode_row(SeriesRow, data) if kind == SERIES else decode_row(InstanceRow, data)
