"""Key derivation: HKDF-Expand-SHA-256 (RFC 5869 section 2.3; SP 800-108 feedback KDF) and HMAC-SHA-256 (FIPS 198-1).

Rule: one parent key, one label, one purpose; a key that others are derived from does nothing else. Every label of the
product is listed here, so that no two collide, and in FORMAT.md. Parents are uniformly random 32-byte keys, hence
Expand without Extract. It stretches no passphrases (`keys.providers.key_file`
does).
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from coffer.keys.buffer import Buffer
from coffer.keys.errors import InputError
from coffer.keys.memory.secret import Secret

__all__ = [
    "ACKNOWLEDGE",
    "BLOB",
    "CID",
    "CLAIM",
    "CLOCK",
    "ERASED_NAME",
    "EVENT",
    "EVENT_BLOB",
    "EVENT_CID",
    "HEDGE",
    "HOLD",
    "INDEX_SUM",
    "INDEX_TOKEN",
    "KCV",
    "KEK_WRAP",
    "KEYFILE_ID",
    "KEYFILE_WRAP",
    "KEYRING_MASK",
    "KEYRING_SUM",
    "LINEAGE",
    "LOG_ID",
    "NEW_KEY",
    "NONCE",
    "NOTE",
    "PSEUDONYM",
    "ROW",
    "SALT",
    "SHARE",
    "SHARE_POLYNOMIAL",
    "SUM_MASK",
    "SUM_ROWS",
    "derive",
    "hmac_sha256",
]

# Under a study's DEK.
BLOB: Final = b"coffer/blob/v1"
CID: Final = b"coffer/cid/v1"
ROW: Final = b"coffer/row/v1"
KCV: Final = b"coffer/kcv/v1"  # what it gives is no key, but the key-check value, in clear
ERASED_NAME: Final = b"coffer/erased-name/v1"  # hides the study's token in the event of its erasure

# Under an epoch's KEK.
KEK_WRAP: Final = b"coffer/kek-wrap/v1"  # seals the key rows of the keyring
SHARE: Final = b"coffer/share/v1"  # check values of key shares

# Under the archive root key (ARK).
INDEX_TOKEN: Final = b"coffer/index-token/v1"
INDEX_SUM: Final = b"coffer/index-sum/v1"  # parent of the keys of the sum over the index's rows
KEYRING_SUM: Final = b"coffer/keyring-sum/v1"  # keys the hashes of the keyring's rows, whose sums it keeps
KEYRING_MASK: Final = b"coffer/keyring-mask/v1"  # hides those sums
PSEUDONYM: Final = b"coffer/pseudonym/v1"
EVENT: Final = b"coffer/event/v1"  # parent of the two keys of events in the log
CLAIM: Final = b"coffer/claim/v1"  # tokens of what has a key, in the keyring
NOTE: Final = b"coffer/note/v1"  # holds and requests, sealed in the keyring
HOLD: Final = b"coffer/hold/v1"  # tokens of what is held, in events
CLOCK: Final = b"coffer/clock/v1"  # the state of the clock, sealed in the keyring
ACKNOWLEDGE: Final = b"coffer/acknowledge/v1"  # seals of acknowledged findings of the scrub
LOG_ID: Final = b"coffer/log-id/v1"  # short keyed ids that stand for UIDs in logs and metrics

# Under the index's INDEX_SUM.
SUM_ROWS: Final = b"coffer/sum-rows/v1"  # keys the hashes of the rows
SUM_MASK: Final = b"coffer/sum-mask/v1"  # hides their sum

# Under the archive's EVENT.
EVENT_BLOB: Final = b"coffer/event-blob/v1"  # seals acts of administrators
EVENT_CID: Final = b"coffer/event-cid/v1"  # their content ids

# Under a key file's secret, or the secret with the stretched passphrase.
KEYFILE_WRAP: Final = b"coffer/keyfile-wrap/v1"
KEYFILE_ID: Final = b"coffer/keyfile-id/v1"  # the secret's public id; derived from the secret alone

# Under an epoch KEK, the ARK or INDEX_SUM: keeps nonces and new keys apart (`keys.crypto.hedge`).
HEDGE: Final = b"coffer/hedge/v1"
NEW_KEY: Final = b"coffer/new-key/v1"  # this and the next four are labels of `hedge`, not of `derive`
LINEAGE: Final = b"coffer/lineage/v1"
NONCE: Final = b"coffer/nonce/v1"
SHARE_POLYNOMIAL: Final = b"coffer/share-polynomial/v1"
SALT: Final = b"coffer/salt/v1"  # under the key that the salt is for

_LONGEST: Final = 255 * 32  # RFC 5869: L <= 255 * HashLen


def derive(key: Secret, label: bytes, length: int = 32) -> Secret:
    """Return `length` bytes of HKDF-Expand-SHA-256(prk=key, info=label) as a new Secret.

    Takes a 32-byte uniformly random key. Raises InputError for a shorter key or a length outside 1..8160.
    """
    if len(key) < 32 or not 1 <= length <= _LONGEST:
        raise InputError("a derivation needs a key of at least 32 bytes and a length of 1 to 8160")
    expand = HKDFExpand(algorithm=SHA256(), length=length, info=label)
    return Secret.filled(length, lambda out: key.use(lambda bytes_: expand.derive_into(bytes_, out)))


def hmac_sha256(key: Secret, data: Buffer) -> bytes:
    """Return the 32-byte HMAC-SHA-256 of `data` under `key`."""
    return key.use(lambda bytes_: hmac.digest(bytes_, data, "sha256"))
