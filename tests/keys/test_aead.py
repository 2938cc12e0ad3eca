"""C2SP chunked encryption: published values, streams, ranges, and every refusal."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import aead
from keys.errors import FormatError, InputError, IntegrityError
from keys.secret import Secret

VECTORS = json.loads((Path(__file__).resolve().parents[1] / "vectors" / "chunked_encryption.json").read_text())[
    "vectors"
]
KEY = Secret(bytes(range(32)))
SALT = bytes(range(24))


def pattern(length: int) -> bytes:
    blocks = (sha256(b"coffer vector" + i.to_bytes(8, "big")).digest() for i in range(length // 32 + 1))
    return b"".join(blocks)[:length]


BIG = pattern(3 * aead.CHUNK + 77)
BIG_SEALED = aead.seal(KEY, b"c", BIG, SALT)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["plaintext_len"]))
def test_published_vectors(vector: dict[str, str]) -> None:
    key, context = Secret(bytes.fromhex(vector["input_key"])), bytes.fromhex(vector["context"])
    plain = pattern(int(vector["plaintext_len"]))
    sealed = aead.seal(key, context, plain, bytes.fromhex(vector["salt"]))
    assert len(sealed) == int(vector["ciphertext_len"]) == aead.sealed_length(len(plain))
    assert sealed[24:56].hex() == vector["commitment"]
    assert sha256(sealed).hexdigest() == vector["ciphertext_sha256"]
    assert aead.open_sealed(key, context, sealed) == plain


@pytest.mark.parametrize("length", [1 << 20, (1 << 20) - 1, (1 << 20) + 1, (2 << 20) + 16384])
def test_lengths_around_the_scratch_buffer(length: int) -> None:
    plain = bytes(length - 3) + b"end"
    sealed = aead.seal(KEY, b"c", plain, SALT)
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
    assert bytes(out) == aead.seal(KEY, b"c", plain, SALT)


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
    sealed = bytearray(aead.seal(KEY, b"c", plain, SALT))
    opener = aead.Opener(KEY, b"c", bytes(sealed[:56]), len(sealed))
    sealed[-1] ^= 1
    assert opener.open_range(lambda o, n: bytes(sealed[o : o + n]), 0, aead.CHUNK - 1) == plain[:-1]
    for start in (0, aead.CHUNK):
        with pytest.raises(IntegrityError):
            opener.open_range(lambda o, n: bytes(sealed[o : o + n]), start, aead.CHUNK)


def test_a_flipped_byte_in_every_position_is_refused() -> None:
    sealed = bytearray(aead.seal(KEY, b"c", b"forty bytes of something worth protecting", SALT))
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
    for call in (sealer.finish, lambda: sealer.update(b""), lambda: sealer.whole(b"")):
        with pytest.raises(InputError):
            call()
    for key, salt in ((Secret(b"x" * 31), SALT), (KEY, SALT[:-1])):
        with pytest.raises(InputError):
            aead.seal(key, b"c", b"", salt)
    opener = aead.Opener(KEY, b"c", BIG_SEALED[:56], len(BIG_SEALED))
    for start, stop in ((-1, 0), (2, 1), (0, len(BIG) + 1)):
        with pytest.raises(InputError):
            opener.chunk_span(start, stop)
    with pytest.raises(FormatError):
        opener.chunk(0, BIG_SEALED[56:60])
