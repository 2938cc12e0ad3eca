"""The keyed hash of many texts is HMAC-SHA-256."""

import hmac

import pytest

from coffer.keys.crypto.keyed_hash import keyed_hash
from coffer.keys.memory.secret import Secret


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 300])
def test_it_is_hmac_sha_256_each_time(size: int) -> None:
    hashed, key = keyed_hash(Secret(bytes(range(32)))), bytes(range(32))
    for text in (bytes(size), bytes([7]) * size):
        assert hashed(text).to_bytes(32, "big") == hmac.digest(key, text, "sha256")
