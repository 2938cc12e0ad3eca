"""C2SP chunked encryption: published values, streams, ranges, and every refusal."""

from __future__ import annotations

import json
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from coffer.keys.crypto import aead
from coffer.keys.errors import FormatError, InputError, IntegrityError
from coffer.keys.memory.secret import Secret

VECTORS = json.loads((Path(__file__).resolve().parents[2] / "vectors" / "chunked_encryption.json").read_text())[
    "vectors"
]
KEY = Secret(bytes(range(32)))
SALT = bytes(range(24))


def pattern(length: int) -> bytes:
    blocks = (sha256(b"coffer vector" + i.to_bytes(8, "big")).digest() for i in range(length // 32 + 1))
    return b"".join(blocks)[:length]


BIG = pattern(3 * aead.CHUNK + 77)
BIG_SEALED = aead.Sealer(KEY, b"c", SALT).whole(BIG)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["plaintext_len"]))
def test_published_vectors(vector: dict[str, str]) -> None:
    key, context = Secret(bytes.fromhex(vector["input_key"])), bytes.fromhex(vector["context"])
    plain = pattern(int(vector["plaintext_len"]))
    sealed = aead.Sealer(key, context, bytes.fromhex(vector["salt"])).whole(plain)
    assert len(sealed) == int(vector["ciphertext_len"]) == aead.sealed_length(len(plain))
    assert sealed[24:56].hex() == vector["commitment"]
    assert sha256(sealed).hexdigest() == vector["ciphertext_sha256"]
    assert aead.open_sealed(key, context, sealed) == plain


@pytest.mark.parametrize("length", [1 << 20, (1 << 20) - 1, (1 << 20) + 1, (2 << 20) + 16384])
def test_lengths_around_the_scratch_buffer(length: int) -> None:
    plain = bytes(length - 3) + b"end"
    sealed = aead.Sealer(KEY, b"c", SALT).whole(plain)
    sealer = aead.Sealer(KEY, b"c", SALT)
    assert sealer.header + sealer.update(plain) + sealer.finish() == sealed
    assert aead.open_sealed(KEY, b"c", sealed) == plain


@given(st.lists(st.integers(0, 40000), max_size=6), st.integers(0, len(BIG)))
def test_every_split_of_a_stream_gives_the_same_bytes(cuts: list[int], length: int) -> None:
    plain = BIG[:length]
    sealer = aead.Sealer(KEY, b"c", SALT)
    out = bytearray(sealer.header)
    at = 0
    for cut in cuts:
        out += sealer.update(plain[at : at + cut])
        at += cut
    out += sealer.update(memoryview(plain)[min(at, length) :]) + sealer.finish()
    assert bytes(out) == aead.Sealer(KEY, b"c", SALT).whole(plain)
    ends = [0, *accumulate(cuts), max(length, sum(cuts))]
    written = memoryview(bytearray(aead.sealed_length(length)))
    aead.Sealer(KEY, b"c", SALT).into([plain[a:b] for a, b in pairwise(ends)], written)
    assert written == out


@pytest.mark.parametrize("length", [0, 5, 16383, 16384, 16385, 2_000_000])
@pytest.mark.parametrize("wrong", [-56, -1, 1])
def test_memory_of_another_length_is_refused(length: int, wrong: int) -> None:
    out = memoryview(bytearray(aead.sealed_length(length) + wrong))
    with pytest.raises(InputError):
        aead.Sealer(KEY, b"c", SALT).into([bytes(length)], out)


@given(st.integers(0, len(BIG)), st.integers(0, len(BIG)))
def test_ranges(a: int, b: int) -> None:
    start, stop = sorted((a, b))
    opener = aead.Opener(KEY, b"c", BIG_SEALED[:56], len(BIG_SEALED))
    asked: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return BIG_SEALED[offset : offset + length]

    assert opener.open_range(read, start, stop) == BIG[start:stop]
    assert sum(length for _, length in asked) <= stop - start + 3 * (aead.CHUNK + aead.TAG)
    if stop == len(BIG):
        assert asked[-1][0] + asked[-1][1] == len(BIG_SEALED)


def test_a_range_to_the_end_verifies_the_empty_last_chunk() -> None:
    plain = BIG[: aead.CHUNK]
    sealed = bytearray(aead.Sealer(KEY, b"c", SALT).whole(plain))
    opener = aead.Opener(KEY, b"c", bytes(sealed[:56]), len(sealed))
    sealed[-1] ^= 1
    assert opener.open_range(lambda o, n: bytes(sealed[o : o + n]), 0, aead.CHUNK - 1) == plain[:-1]
    for start in (0, aead.CHUNK):
        with pytest.raises(IntegrityError):
            opener.open_range(lambda o, n: bytes(sealed[o : o + n]), start, aead.CHUNK)


def test_a_flipped_byte_in_every_position_is_refused() -> None:
    sealed = bytearray(aead.Sealer(KEY, b"c", SALT).whole(b"forty bytes of something worth protecting"))
    for at in range(len(sealed)):
        for bit in (1, 128):
            sealed[at] ^= bit
            with pytest.raises(IntegrityError):
                aead.open_sealed(KEY, b"c", sealed)
            sealed[at] ^= bit
    assert aead.open_sealed(KEY, b"c", sealed)


@given(st.integers(0, len(BIG_SEALED) - 1), st.integers(1, 255))
def test_a_flipped_byte_of_several_chunks_is_refused(at: int, flip: int) -> None:
    sealed = bytearray(BIG_SEALED)
    sealed[at] ^= flip
    with pytest.raises(IntegrityError):
        aead.open_sealed(KEY, b"c", sealed)


def test_cut_at_and_around_every_chunk_boundary_is_refused() -> None:
    for chunk in range(4):
        for near in range(-17, 18):
            length = 56 + 16400 * chunk + near
            if 0 <= length < len(BIG_SEALED):
                with pytest.raises(IntegrityError):
                    aead.open_sealed(KEY, b"c", BIG_SEALED[:length])


def test_swapped_chunks_are_refused() -> None:
    first, second = BIG_SEALED[56 : 56 + 16400], BIG_SEALED[56 + 16400 : 56 + 32800]
    with pytest.raises(IntegrityError):
        aead.open_sealed(KEY, b"c", BIG_SEALED[:56] + second + first + BIG_SEALED[56 + 32800 :])


def test_commitment_is_checked_before_anything_is_read() -> None:
    for key, context in ((Secret(bytes(32)), b"c"), (KEY, b"d")):
        with pytest.raises(IntegrityError, match="commitment"):
            aead.Opener(key, context, BIG_SEALED[:56], len(BIG_SEALED))


def test_a_short_read_is_refused() -> None:
    opener = aead.Opener(KEY, b"c", BIG_SEALED[:56], len(BIG_SEALED))
    with pytest.raises(IntegrityError, match="ends early"):
        opener.open_range(lambda offset, length: BIG_SEALED[offset : offset + length - 1], 0, 10)


@pytest.mark.parametrize("length", [-1, 0, 55, 56, 71, 56 + 16400, 56 + 16400 + 15])
def test_impossible_lengths(length: int) -> None:
    with pytest.raises(FormatError):
        aead.plain_length(length)


@given(st.integers(0, 1 << 40))
def test_lengths_are_inverse(length: int) -> None:
    assert aead.plain_length(aead.sealed_length(length)) == length


def test_wrong_use_is_refused() -> None:
    sealer = aead.Sealer(KEY, b"c", SALT)
    sealer.finish()
    for call in (
        sealer.finish,
        lambda: sealer.update(b""),
        lambda: sealer.whole(b""),
        lambda: sealer.into([], memoryview(bytearray(72))),
    ):
        with pytest.raises(InputError):
            call()
    for key, salt in ((Secret(b"x" * 31), SALT), (KEY, SALT[:-1])):
        with pytest.raises(InputError):
            aead.Sealer(key, b"c", salt).whole(b"")
    opener = aead.Opener(KEY, b"c", BIG_SEALED[:56], len(BIG_SEALED))
    for start, stop in ((-1, 0), (2, 1), (0, len(BIG) + 1)):
        with pytest.raises(InputError):
            opener.chunk_span(start, stop)
    with pytest.raises(FormatError):
        opener.chunk(0, BIG_SEALED[56:60])


class _Derived(NamedTuple):
    """What the format derives of a key for one message, and GHASH's key of it."""

    key: bytes
    nonce: bytes
    commitment: bytes

    @classmethod
    def of(cls, key: Secret, context: bytes, salt: bytes) -> _Derived:
        info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
        okm = HKDFExpand(algorithm=SHA512(), length=76, info=info).derive(key.reveal())
        return cls(okm[:32], okm[32:44], okm[44:])

    def aes(self, block: bytes) -> int:
        encryptor = Cipher(algorithms.AES256(self.key), modes.ECB()).encryptor()
        return int.from_bytes(encryptor.update(block), "big")

    def counter(self, number: int) -> int:
        return self.aes(self.nonce + number.to_bytes(4, "big"))


def times(x: int, y: int) -> int:
    """The product in GCM's field (NIST SP 800-38D 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        product ^= y if x >> bit & 1 else 0
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def power(x: int, exponent: int) -> int:
    result = 1 << 127  # one
    while exponent:
        result = times(result, x) if exponent & 1 else result
        x, exponent = times(x, x), exponent >> 1
    return result


def under_both(one: _Derived, two: _Derived) -> bytes:
    """A chunk that AES-GCM opens under two keys: to a text of one's own under each, with a block that pays for it."""
    text = [int.from_bytes(each, "big") for each in (b"the image of A..", b"the image of B..")]
    blocks = [text[0] ^ one.counter(2), text[1] ^ two.counter(3)]
    h = [each.aes(bytes(16)) for each in (one, two)]
    length = (len(blocks) + 1) * 128
    left = one.counter(1) ^ two.counter(1) ^ times(length, h[0] ^ h[1])
    for at, block in enumerate(blocks):
        left ^= times(block, power(h[0], 4 - at) ^ power(h[1], 4 - at))
    blocks.append(times(left, power(power(h[0], 2) ^ power(h[1], 2), 2**128 - 2)))
    tag = 0
    for block in (*blocks, length):
        tag = times(tag ^ block, h[0])
    return b"".join(block.to_bytes(16, "big") for block in (*blocks, tag ^ one.counter(1)))


def test_a_blob_that_gcm_opens_under_two_keys_opens_under_the_one_it_commits_to() -> None:
    keys = KEY, Secret(bytes(range(1, 33)))
    one, two = (_Derived.of(key, b"c", SALT) for key in keys)
    chunk = under_both(one, two)
    plain = [AESGCM(each.key).decrypt(each.nonce, chunk, None) for each in (one, two)]
    assert (plain[0][:16], plain[1][16:32]) == (b"the image of A..", b"the image of B..")
    for derived, opens, other, text in ((one, keys[0], keys[1], plain[0]), (two, keys[1], keys[0], plain[1])):
        sealed = SALT + derived.commitment + chunk
        assert aead.open_sealed(opens, b"c", sealed) == text
        with pytest.raises(IntegrityError, match="commitment"):
            aead.Opener(other, b"c", sealed[: aead.HEADER], len(sealed))
