"""The keyring's rows as bytes (pure). Layout and reasons: FORMAT.md.

Rule: every clear field of a row is part of the context under which its key is sealed, together with the archive id and
the row's own id: an edited row, or one moved to another id or archive, no longer opens.
It does not read or write the database.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from coffer.keys.crypto import aead
from coffer.keys.crypto.derive import KEK_WRAP, derive
from coffer.keys.crypto.hedge import Random
from coffer.keys.errors import FormatError
from coffer.keys.memory.secret import Secret
from coffer.keys.store.writes import FEED_KEY
from coffer.keys.values.epoch import Epoch, EpochState

__all__ = [
    "EpochRow",
    "KeyRow",
    "KeyState",
    "KeyringHeader",
    "Purpose",
    "WrapAlgorithm",
    "epoch_context",
    "epoch_row_key",
]

MAGIC: Final = b"CofferKR"
VERSION: Final = 4  # of the header, of epoch rows and of key rows
HEADER: Final = struct.Struct(">8sHI16sQ")  # magic version epoch archive_id created_ms
KEY_CLEAR: Final = struct.Struct(">HBBB3xI16sQ16s")  # version wrap_alg purpose state pad epoch kek_id created_ms claim
EPOCH_CLEAR: Final = struct.Struct(
    ">HBBI16sQ16sH"
)  # version wrap_alg state epoch kek_id created_ms provider wrapped_len
HEADER_KEY: Final = b"H"
ARCHIVE_ROOT_KEY: Final = b"A"
SIGNING_KEY: Final = b"V"  # the seed that signs checkpoints
NEXT_SIGNING_KEY: Final = b"N"  # the next such seed; present while its rotation is under way
EPOCH_PREFIX: Final = b"E"
STUDY_PREFIX: Final = b"K"
CLAIM_PREFIX: Final = b"J"  # by token, which key belongs to what the token stands for
CHECKPOINT_KEY: Final = b"W"
SHARES_PREFIX: Final = b"G"  # groups of shares of an epoch's KEK; never a share itself
SPLITTING_PREFIX: Final = b"F"  # groups whose shares are not all written yet
TOMBSTONE_PREFIX: Final = b"T"
CHANGES_KEY: Final = FEED_KEY  # its number grows when keys go, and when it changes what may be done with them
KEEPER_PREFIX: Final = b"U"  # secrets that could ever open an epoch's key, and their receipts
BURNED_PREFIX: Final = b"B"  # the burned shares of a group
REKEY_PREFIX: Final = b"R"  # rekeys under way
COMPACTED_KEY: Final = b"I"  # the newest destroyed epoch since whose end the index was rewritten
# P, L and Q are in `keys.values`, O and M in `keys.mailbox`. Reserved in FORMAT.md, and never written: X, Y, Z.
NO_CLAIM: Final = bytes(16)
NO_ID: Final = bytes(16)  # stands in for the key id in the archive's own rows
_KEY_CONTEXT: Final = b"coffer/dek/v1\x00"
_EPOCH_CONTEXT: Final = b"coffer/kek/v1\x00"
_WRAPPED: Final = aead.sealed_length(32)


class Purpose(IntEnum):
    """What a wrapped key is for."""

    STUDY = 1
    ARCHIVE_ROOT = 2
    SIGNING = 3
    NEXT_SIGNING = 4


OWN_KEYS: Final = {  # the archive's own keys, one row each
    ARCHIVE_ROOT_KEY: Purpose.ARCHIVE_ROOT,
    SIGNING_KEY: Purpose.SIGNING,
    NEXT_SIGNING_KEY: Purpose.NEXT_SIGNING,
}


class KeyState(IntEnum):
    """Whether a key may be used. A destroyed key has no row."""

    ACTIVE = 1
    SHRED_SCHEDULED = 2


class WrapAlgorithm(IntEnum):
    """How a key is wrapped: here with C2SP chunked encryption, or by the provider in its own way."""

    CHUNKED_ENCRYPTION = 1
    PROVIDER = 3


@dataclass(frozen=True, slots=True)
class KeyringHeader:
    """The keyring's header row: the archive and its current epoch. `created_ms` is in ms since 1970 UTC."""

    epoch: int
    archive_id: bytes
    created_ms: int

    def encode(self) -> bytes:
        """Return the 38 bytes."""
        return HEADER.pack(MAGIC, VERSION, self.epoch, self.archive_id, self.created_ms)

    @classmethod
    def decode(cls, data: bytes) -> KeyringHeader:
        """Return the header. Raises FormatError for another magic, version or length."""
        if len(data) != HEADER.size or data[:8] != MAGIC:
            raise FormatError("this is not a Coffer keyring")
        _, version, epoch, archive_id, created_ms = HEADER.unpack(data)
        if version != VERSION:
            raise FormatError(
                f"the keyring has format {version}, and this Coffer has format {VERSION}",
                hint="open it with the Coffer that made it: its coffer get writes files that coffer put takes here",
            )
        return cls(epoch, archive_id, created_ms)


def epoch_row_key(epoch: int) -> bytes:
    """Return the key of an epoch's row."""
    return EPOCH_PREFIX + epoch.to_bytes(4, "big")


def epoch_context(archive_id: bytes, kek_id: bytes, epoch: int) -> bytes:
    """Return the context that a provider binds a wrapped KEK to: label, archive id, KEK id, epoch (u32 big endian)."""
    return _EPOCH_CONTEXT + archive_id + kek_id + epoch.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch, with its KEK as the provider wrapped it. `provider` is the provider's kind, ASCII, at most 16
    bytes."""

    state: EpochState
    epoch: int
    kek_id: bytes
    created_ms: int
    provider: str
    wrapped: bytes

    @property
    def facts(self) -> Epoch:
        """What the floors above may know of it."""
        return Epoch(self.epoch, self.provider, self.state, self.created_ms)

    def encode(self) -> bytes:
        """Return 50 bytes followed by the wrapped KEK."""
        alg, kind = WrapAlgorithm.PROVIDER, self.provider.encode("ascii")
        if len(kind) > 16:
            raise FormatError("a provider kind has at most 16 bytes")
        clear = (VERSION, alg, self.state, self.epoch, self.kek_id, self.created_ms, kind, len(self.wrapped))
        return EPOCH_CLEAR.pack(*clear) + self.wrapped

    @classmethod
    def decode(cls, data: bytes) -> EpochRow:
        """Return the row. Raises FormatError for whatever FORMAT.md says a reader must reject."""
        if len(data) < EPOCH_CLEAR.size:
            raise FormatError("an epoch row of the keyring is too short")
        version, alg, state, epoch, kek_id, created, kind, length = EPOCH_CLEAR.unpack_from(data)
        if version != VERSION or alg != WrapAlgorithm.PROVIDER or length != len(data) - EPOCH_CLEAR.size:
            raise FormatError("an epoch row of the keyring has values that this version never writes")
        try:
            return cls(
                EpochState(state), epoch, kek_id, created, kind.rstrip(b"\0").decode("ascii"), data[EPOCH_CLEAR.size :]
            )
        except ValueError:
            raise FormatError("an epoch row of the keyring has values that this version never writes") from None


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key, a study's DEK or one of the archive's own, wrapped under the KEK of `epoch`, and the token of its claim
    (zeros: none)."""

    purpose: Purpose
    state: KeyState
    epoch: int
    kek_id: bytes
    created_ms: int
    sealed: bytes = b""
    claim: bytes = NO_CLAIM

    @property
    def has_claim(self) -> bool:
        """Whether a claim leads to this key."""
        return self.claim != NO_CLAIM

    def _clear(self) -> bytes:
        alg = WrapAlgorithm.CHUNKED_ENCRYPTION
        numbers = VERSION, alg, self.purpose, self.state, self.epoch
        return KEY_CLEAR.pack(*numbers, self.kek_id, self.created_ms, self.claim)

    def _context(self, archive_id: bytes, key_id: bytes) -> bytes:
        return _KEY_CONTEXT + archive_id + key_id + self._clear()

    def wrap(self, kek: Secret, archive_id: bytes, key_id: bytes, key: Secret, random: Random) -> bytes:
        """Return the row's 156 bytes with `key` sealed in them."""
        wrapping, context = derive(kek, KEK_WRAP), self._context(archive_id, key_id)
        return self._clear() + key.use(lambda plain: aead.seal(wrapping, context, plain, random))

    def unwrap(self, kek: Secret, archive_id: bytes, key_id: bytes) -> Secret:
        """Return the key. Raises IntegrityError unless row, id, archive and KEK are those it was sealed under."""
        return aead.open_secret(derive(kek, KEK_WRAP), self._context(archive_id, key_id), self.sealed)

    @classmethod
    def decode(cls, data: bytes) -> KeyRow:
        """Return the row. Raises FormatError for whatever FORMAT.md says a reader must reject."""
        if len(data) != KEY_CLEAR.size + _WRAPPED or data[5:8] != bytes(3):
            raise FormatError("a key row of the keyring has the wrong length or padding")
        version, alg, purpose, state, epoch, kek_id, created_ms, claim = KEY_CLEAR.unpack_from(data)
        if version != VERSION or alg != WrapAlgorithm.CHUNKED_ENCRYPTION:
            raise FormatError("a key row of the keyring has values that this version never writes")
        try:
            sealed = data[KEY_CLEAR.size :]
            return cls(Purpose(purpose), KeyState(state), epoch, kek_id, created_ms, sealed, claim)
        except ValueError:
            raise FormatError("a key row of the keyring has values that this version never writes") from None
