"""Known-answer tests: each primitive that answers wrongly is found, and named."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coffer.keys.crypto import aead, selftest, shamir
from coffer.keys.crypto import derive as derive_module
from coffer.keys.errors import IntegrityError

WRONG = b"\x5a" * 32


class _Expand:
    """HKDF that gives other bytes than it should."""

    def __init__(self, *_: object, length: int, **__: object) -> None:
        self._length = length

    def derive(self, _: object) -> bytes:
        return bytes(self._length)


class _Argon2:
    """Argon2id that does not look at the passphrase."""

    def __init__(self, **_: object) -> None:
        pass

    def derive(self, _: object) -> bytes:
        return WRONG


class _Cipher:
    """AES-GCM whose tags are never checked: what it opens is what came in."""

    def __init__(self, key: bytes) -> None:
        self._real = AESGCM(key)
        self.encrypt, self.encrypt_into = self._real.encrypt, self._real.encrypt_into

    def decrypt(self, nonce: bytes, data: bytes, aad: bytes | None) -> bytes:
        return bytes(data[:-16])

    def decrypt_into(self, nonce: bytes, data: bytes, aad: bytes | None, out: memoryview) -> int:
        out[:] = data[:-16]
        return len(out)


class _Signer:
    """Ed25519 that signs with another key than it was given."""

    @staticmethod
    def from_private_bytes(_: bytes) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(WRONG)


BREAKS: dict[str, tuple[object, str, object]] = {
    "sha256": (hashlib, "sha256", lambda data=b"": hashlib.sha3_256(data)),
    "hmac_sha256": (hmac, "digest", lambda *_: WRONG),
    "hmac_sha512": (hmac, "new", lambda *_: hashlib.sha3_512()),
    "hkdf_sha256": (derive_module, "HKDFExpand", _Expand),
    "aes_256_gcm": (selftest, "AESGCM", _Cipher),
    "chunked_encryption": (aead, "HKDFExpand", _Expand),
    "chunks": (aead, "CHUNK", 8192),
    "refuses_altered": (aead, "AESGCM", _Cipher),
    "ed25519": (selftest, "Ed25519PrivateKey", _Signer),
    "argon2id": (selftest, "Argon2id", _Argon2),
    "key_shares": (shamir, "times", lambda lanes, factor: lanes),
}


def test_all_pass_and_every_one_of_them_is_broken_below() -> None:
    assert selftest.run() == len(BREAKS)
    assert [test.__name__.strip("_") for test in selftest._TESTS] == list(BREAKS)


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_primitive_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BREAKS[name])
    with pytest.raises(IntegrityError) as caught:
        selftest.run()
    assert name in str(caught.value).partition(": ")[2].split(", ")
    assert caught.value.hint()
