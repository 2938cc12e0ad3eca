"""Seal a copy of a keyring to people: whoever has one of their identities opens it, and nobody else.

HPKE (RFC 9180) with X-Wing (ML-KEM-768 and X25519) wraps one random key for each recipient; under it the copy is
sealed as everything else is (`keys.crypto.aead`). Layout: FORMAT.md, copies of the keyring.

Rule: pure, and needs no key of the archive to seal. A copy that somebody took stays closed even to a quantum computer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from coffer.keys.buffer import Buffer
from coffer.keys.crypto import aead
from coffer.keys.crypto.hedge import Random, first_key
from coffer.keys.errors import FormatError, InputError, IntegrityError, KeyUnavailableError
from coffer.keys.memory.secret import Secret

__all__ = ["MAGIC", "MOST_RECIPIENTS", "Identity", "Recipient", "opened", "sealed"]

MAGIC: Final = b"CFKC"
MOST_RECIPIENTS: Final = 16
_VERSION: Final = 1
_HEAD: Final = 24  # magic, version, number of recipients, archive id
_ID: Final = 8
_WRAPPED: Final = 1168  # enc 1120, key 32, tag 16
_PUBLIC, _KEM_PUBLIC, _SEED, _PRIVATE = 1216, 1184, 64, 96
_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_LABEL: Final = b"coffer/keyring-copy/v1\x00"
_PUBLIC_TEXT: Final = "coffer-recipient-1 "
_PRIVATE_TEXT: Final = "COFFER-IDENTITY-1 "
_WINDOW: Final = 64 * (aead.CHUNK + aead.TAG)


@dataclass(frozen=True, slots=True)
class Recipient:
    """The public half: 1184 bytes of ML-KEM-768 and 32 of X25519."""

    public: bytes

    @property
    def id(self) -> str:
        """16 hex digits by which people compare it: the start of its SHA-256."""
        return hashlib.sha256(self.public).hexdigest()[: 2 * _ID]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse one line of text. Raises FormatError."""
        made = cls(_decoded(text, _PUBLIC_TEXT, _PUBLIC))
        made.key()
        return made

    def text(self) -> str:
        """The line of text that `parse` reads, with its newline."""
        return f"{_PUBLIC_TEXT}{base64.b64encode(self.public).decode()}\n"

    def key(self) -> MLKEM768X25519PublicKey:
        """The key to seal to. Raises FormatError if it is none."""
        try:
            return MLKEM768X25519PublicKey(
                MLKEM768PublicKey.from_public_bytes(self.public[:_KEM_PUBLIC]),
                X25519PublicKey.from_public_bytes(self.public[_KEM_PUBLIC:]),
            )
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError("this is no recipient's key") from error


@dataclass(frozen=True, slots=True)
class Identity:
    """The private half: a seed of 64 bytes and 32 bytes."""

    secret: Secret

    @classmethod
    def new(cls) -> Self:
        """A new identity, from the randomness of the cryptographic library."""
        kem, ecdh = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        return cls(Secret(kem.private_bytes_raw() + ecdh.private_bytes_raw()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse one line of text. Raises FormatError."""
        return cls(Secret(_decoded(text, _PRIVATE_TEXT, _PRIVATE)))

    def text(self) -> str:
        """The line of text that `parse` reads, with its newline: whoever has it opens every copy that was sealed to
        it."""
        return f"{_PRIVATE_TEXT}{base64.b64encode(self.secret.reveal()).decode()}\n"

    def recipient(self) -> Recipient:
        """The public half."""
        kem, ecdh = self._halves()
        return Recipient(kem.public_key().public_bytes_raw() + ecdh.public_key().public_bytes_raw())

    def unwrap(self, wrapped: bytes, info: bytes) -> Secret | None:
        """The key that was wrapped for this identity; None if it was not."""
        kem, ecdh = self._halves()
        try:
            return Secret(_SUITE.decrypt(wrapped, MLKEM768X25519PrivateKey(kem, ecdh), info))
        except (InvalidTag, ValueError):
            return None

    def _halves(self) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        raw = self.secret.reveal()
        return MLKEM768PrivateKey.from_seed_bytes(raw[:_SEED]), X25519PrivateKey.from_private_bytes(raw[_SEED:])


def sealed(
    pieces: Iterable[Buffer], sha256: bytes, archive_id: bytes, recipients: Sequence[Recipient], random: Random
) -> Iterator[bytes]:
    """Seal bytes that are given in pieces, and have this SHA-256, to 1 to 16 recipients. Yields the copy in pieces."""
    if not 0 < len(recipients) <= MOST_RECIPIENTS or len({each.id for each in recipients}) != len(recipients):
        raise InputError(f"a copy is sealed to 1 to {MOST_RECIPIENTS} different recipients")
    head = MAGIC + _VERSION.to_bytes(2, "big") + len(recipients).to_bytes(2, "big") + archive_id
    key, info = first_key(random, sha256), _LABEL + head
    wrapped = [
        bytes.fromhex(each.id) + key.use(lambda raw, to=each: _SUITE.encrypt(bytes(raw), to.key(), info))  # type: ignore[misc]
        for each in recipients
    ]
    clear = b"".join([head, *wrapped])
    context = _LABEL + clear
    sealer = aead.Sealer(key, context, aead.fresh_salt(key, context, sha256, random))
    yield clear
    yield sealer.header
    for piece in pieces:
        yield sealer.update(piece)
    yield sealer.finish()


def opened(pieces: Iterable[bytes], size: int, archive_id: bytes, identity: Identity | None) -> Iterator[bytes]:
    """Open a sealed copy of `size` bytes that is given in pieces. Yields its plaintext in pieces, each verified.

    Raises KeyUnavailableError without an identity, or if it was not sealed to this one; FormatError for what is no
    sealed copy of this archive; IntegrityError if it was altered, cut or lengthened.
    """
    reader = _Reader(pieces)
    head = reader.take(_HEAD)
    count = int.from_bytes(head[6:8], "big")
    if head[:4] != MAGIC or head[4:6] != _VERSION.to_bytes(2, "big") or not 0 < count <= MOST_RECIPIENTS:
        raise FormatError("this is no sealed copy of a keyring")
    if head[8:] != archive_id:
        raise FormatError("this is the sealed copy of another archive's keyring")
    wrapped = reader.take(count * (_ID + _WRAPPED))
    key = None if identity is None else _unwrapped(wrapped, identity, _LABEL + head)
    if key is None:
        ids = ", ".join(wrapped[at : at + _ID].hex() for at in range(0, len(wrapped), _ID + _WRAPPED))
        raise KeyUnavailableError(
            f"this copy of the keyring is sealed to the recipients {ids}, and none of their identities was given",
            hint="give the file with one of these identities: --identity FILE",
        )
    opener = aead.Opener(key, _LABEL + head + wrapped, reader.take(aead.HEADER), size - _HEAD - len(wrapped))
    index, left = 0, opener.total - aead.HEADER
    while left:
        window = reader.take(min(_WINDOW, left))
        left -= len(window)
        for at in range(0, len(window), aead.CHUNK + aead.TAG):
            yield opener.chunk(index, window[at : at + aead.CHUNK + aead.TAG])
            index += 1
    if index != opener.last_chunk + 1:
        raise IntegrityError("the sealed copy of the keyring is cut")


def _unwrapped(wrapped: bytes, identity: Identity, info: bytes) -> Secret | None:
    own = bytes.fromhex(identity.recipient().id)
    for at in range(0, len(wrapped), _ID + _WRAPPED):
        if wrapped[at : at + _ID] == own:
            return identity.unwrap(wrapped[at + _ID : at + _ID + _WRAPPED], info)
    return None


class _Reader:
    """Takes exact lengths out of pieces of any size."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._held = b""

    def take(self, count: int) -> bytes:
        while len(self._held) < count:
            piece = next(self._pieces, None)
            if piece is None:
                raise IntegrityError("the sealed copy of the keyring is cut")
            self._held += piece
        taken, self._held = self._held[:count], self._held[count:]
        return taken


def _decoded(text: str, begins: str, size: int) -> bytes:
    try:
        raw = base64.b64decode(text.removeprefix(begins).strip(), validate=True)
    except binascii.Error:
        raw = b""
    if not text.startswith(begins) or len(raw) != size:
        raise FormatError("this is no key of a recipient", hint="coffer backup recipient new FILE makes one")
    return raw
