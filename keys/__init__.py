"""Ciphers, the key hierarchy, the keyring, key providers, durable files and checkpoint signing: the lowest floor.

Rule: imports nothing of the other floors and knows nothing of DICOM. Errors of the whole product are in `errors`.
Byte layouts: FORMAT.md beside this file. `keys.derive` stays the module (its labels are named `derive.BLOB` and so on).
"""

from __future__ import annotations

from keys.aead import CHUNK, OVERHEAD, TAG, Opener, Sealer, open_sealed, plain_length, seal, sealed_length
from keys.appendfile import AppendFile
from keys.buffer import Buffer
from keys.derive import hmac_sha256
from keys.durable import make_folder, replace, write_new
from keys.errors import (
    AccessDeniedError,
    CofferError,
    ConfigError,
    FormatError,
    InputError,
    IntegrityError,
    KeyUnavailableError,
    LockedError,
    NotFoundError,
    ShreddedError,
    UnavailableError,
)
from keys.keyfile import CHEAPEST_FOR_TESTS, DEFAULT_COST, Argon2Cost, KeyFileProvider, generate_keyfile
from keys.keyring import Keyring
from keys.overview import EpochInfo
from keys.provider import DestroyReceipt, KekProvider, ProviderInfo
from keys.secret import Secret
from keys.signing import CheckpointSigner, verify_note
from keys.studykey import StudyKey
from keys.syscalls import Syscalls, SystemCalls, sync_folder

__all__ = [
    "CHEAPEST_FOR_TESTS",
    "CHUNK",
    "DEFAULT_COST",
    "OVERHEAD",
    "TAG",
    "AccessDeniedError",
    "AppendFile",
    "Argon2Cost",
    "Buffer",
    "CheckpointSigner",
    "CofferError",
    "ConfigError",
    "DestroyReceipt",
    "EpochInfo",
    "FormatError",
    "InputError",
    "IntegrityError",
    "KekProvider",
    "KeyFileProvider",
    "KeyUnavailableError",
    "Keyring",
    "LockedError",
    "NotFoundError",
    "Opener",
    "ProviderInfo",
    "Sealer",
    "Secret",
    "ShreddedError",
    "StudyKey",
    "Syscalls",
    "SystemCalls",
    "UnavailableError",
    "generate_keyfile",
    "hmac_sha256",
    "make_folder",
    "open_sealed",
    "plain_length",
    "replace",
    "seal",
    "sealed_length",
    "sync_folder",
    "verify_note",
    "write_new",
]
