"""Padded lengths, and bodies whose head or padding is not what a writer makes: refused, whoever sealed them."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.body.head import HEAD, NO_DIGEST, VERSION, XXH3_64, Head
from coffer.archive.body.padding import SHORTEST, padded_length, padding
from coffer.archive.body.reseal import reseal
from coffer.archive.codec import frames
from coffer.archive.store.free_space import FreeSpace
from coffer.keys.crypto import aead
from coffer.keys.errors import FormatError, IntegrityError
from tests.archive.body.test_body import CONTEXT, KEY, MEMORY, RANDOM, reader, seal, sealed_bytes
from tests.vectors import reader_body

IDS = (CONTEXT.archive_id, CONTEXT.study_key_id, CONTEXT.content_id)
LENGTHS = st.integers(0, 1 << 48) | st.builds(lambda e, d: max((1 << e) + d, 0), st.integers(0, 48), st.integers(-3, 3))
SHA_AT, KIND_AT = 11, 43


def plain_of(sealed: bytes) -> bytes:
    return aead.open_sealed(KEY, CONTEXT.bind(aead.plain_length(len(sealed))), sealed)


def sealed_plain(plain: bytes) -> bytes:
    """Any bytes sealed as a body, as somebody with the key could."""
    return aead.seal(KEY, CONTEXT.bind(len(plain)), plain, RANDOM)


def read_all(sealed: bytes, *, fast: bool = False) -> bytes:
    with reader(sealed) as body:
        return b"".join(body.chunks(fast=fast))


@given(used=LENGTHS, more=st.integers(0, 1 << 20))
def test_a_padded_length_is_enough_not_much_more_and_its_own(used: int, more: int) -> None:
    length = padded_length(used)
    assert max(used, SHORTEST) <= length <= max(used * 33 // 32, SHORTEST)
    assert padded_length(length) == length
    assert length <= padded_length(used + more)


@given(used=st.integers(0, 1 << 17))
def test_the_second_reader_pads_alike(used: int) -> None:
    assert padded_length(used) == reader_body.padded(used)


def test_few_lengths_are_left() -> None:
    """Of all lengths from 64 KiB to 128 KiB there are 64: 6 bits after the first are not zero."""
    lengths = sorted({padded_length(used) for used in range((1 << 16) + 1, (1 << 17) + 1)})
    assert len(lengths) == 64
    assert {b - a for a, b in pairwise(lengths)} == {1 << 10}


@pytest.mark.parametrize("used", [0, 1, SHORTEST, SHORTEST + 1, 70_000_001, 300_000_001])
def test_padding_is_zeros_in_pieces(used: int) -> None:
    pieces = list(padding(used))
    assert sum(map(len, pieces)) == padded_length(used) - used
    assert all(0 < len(piece) <= 1 << 20 and not any(piece) for piece in pieces)


EDGES = [0, 1, *(around + by for around in (aead.CHUNK, 2 * aead.CHUNK, frames.FRAME_BYTES) for by in (-1, 0, 1))]


@pytest.mark.parametrize("memory", [MEMORY, 0])
@pytest.mark.parametrize("size", EDGES)
def test_a_data_set_of_any_length_comes_back(tmp_path: Path, size: int, memory: int) -> None:
    data = os.urandom(size)
    sealed = seal(tmp_path, data, memory)
    with reader(sealed) as body:
        assert body.plain_length == padded_length(body.used)
        assert b"".join(body.chunks()) == data
        assert body.read(max(size - 5, 0), size) == data[-5:]
    assert reader_body.read_body(KEY.reveal(), IDS, CONTEXT.kind, sealed) == (b"meta", data)


@pytest.mark.parametrize("used", [SHORTEST, aead.CHUNK, 2 * aead.CHUNK, 1 << 16])
@pytest.mark.parametrize("by", [-1, 0, 1])
def test_a_plain_body_may_end_at_any_edge(tmp_path: Path, used: int, by: int) -> None:
    """Noise is stored as it is, so the bytes used are known: around a chunk's end there is no padding, or a lot."""
    data = os.urandom(used + by - HEAD.size - len(b"meta") - 8 - 1)
    sealed = seal(tmp_path, data)
    with reader(sealed) as body:
        assert body.used == used + by
    assert read_all(sealed) == data


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("meta", [b"", b"meta", b"m" * 40_000])
@pytest.mark.parametrize("size", [0, 400, 70_000, 2_000_000])
def test_a_body_that_is_sealed_again_is_padded_for_its_new_meta(
    tmp_path: Path, size: int, meta: bytes, in_memory: bool
) -> None:
    data = os.urandom(size)
    with reader(seal(tmp_path, data)) as body:
        done = reseal(body, meta, KEY, CONTEXT, RANDOM, FreeSpace(tmp_path, 0), in_memory=in_memory)
    again = done if isinstance(done, bytes) else sealed_bytes(done)
    with reader(again) as body:
        assert (body.meta, body.plain_length) == (meta, padded_length(body.used))
    assert read_all(again) == data


@given(at=st.integers(0, 1 << 20), value=st.integers(1, 255), size=st.sampled_from([0, 20, 70_000, 1_500_000]))
def test_padding_that_is_not_zeros_is_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, size: int
) -> None:
    """Otherwise there would be a place in every object for bytes that nobody sees."""
    sealed = seal(tmp_path_factory.mktemp("p"), os.urandom(size))
    with reader(sealed) as body:
        used = body.used
    plain = bytearray(plain_of(sealed))
    plain[used + at % (len(plain) - used)] = value
    with reader(sealed_plain(bytes(plain))) as body, pytest.raises(FormatError, match="padding"):
        list(body.chunks())


def test_the_last_frame_is_held_back_until_the_padding_is_checked(tmp_path: Path) -> None:
    plain = bytearray(plain_of(seal(tmp_path, os.urandom(3 * frames.FRAME_BYTES))))
    plain[-1] = 1
    with reader(sealed_plain(bytes(plain))) as body:
        chunks = body.chunks()
        assert sum(len(next(chunks)) for _ in range(2)) == 2 * frames.FRAME_BYTES
        with pytest.raises(FormatError, match="padding"):
            next(chunks)


@pytest.mark.parametrize("size", [0, 20, 70_000])
@pytest.mark.parametrize("by", [-1, 1, 1 << 12])
def test_no_other_length_is_accepted(tmp_path: Path, size: int, by: int) -> None:
    plain = plain_of(seal(tmp_path, os.urandom(size)))
    with pytest.raises(FormatError, match="add up"):
        reader(sealed_plain(plain[: len(plain) + by] + bytes(max(by, 0))))


def test_a_body_without_its_padding_is_refused(tmp_path: Path) -> None:
    sealed = seal(tmp_path, b"data set")
    with reader(sealed) as body:
        used = body.used
    with pytest.raises(FormatError, match="add up"):
        reader(sealed_plain(plain_of(sealed)[:used]))


def test_a_data_set_without_bytes_has_its_hash_checked_too(tmp_path: Path) -> None:
    plain = bytearray(plain_of(seal(tmp_path, b"")))
    plain[11] ^= 1
    with reader(sealed_plain(bytes(plain))) as body, pytest.raises(Exception, match="SHA-256"):
        list(body.chunks())


@pytest.mark.parametrize("version", [0, 1, 3, 255])
def test_another_version_is_refused_with_a_sentence(version: int) -> None:
    """Also one that is shorter than our head: what follows the version is for that version to say."""
    for length in (1, HEAD.size - 1, SHORTEST):
        with pytest.raises(FormatError, match="the object was written by another version of Coffer"):
            reader(sealed_plain(bytes([version]) + bytes(length - 1)))


@pytest.mark.parametrize("length", [0, 1, HEAD.size - 1])
def test_a_body_shorter_than_its_head_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match="too short"):
        reader(sealed_plain((bytes([VERSION]) + bytes(HEAD.size))[:length]))


@pytest.mark.parametrize("kind", [NO_DIGEST, XXH3_64])
def test_a_digest_is_kept_and_a_body_without_one_is_read(tmp_path: Path, kind: int) -> None:
    data = os.urandom(1000)
    plain = bytearray(plain_of(seal(tmp_path, data)))
    digest = bytes(plain[KIND_AT : KIND_AT + 9])
    assert digest == bytes([XXH3_64]) + xxhash.xxh3_64(data).digest()
    if kind == NO_DIGEST:
        digest = plain[KIND_AT : KIND_AT + 9] = bytes(9)
    sealed = sealed_plain(bytes(plain))
    assert read_all(sealed) == read_all(sealed, fast=True) == data
    assert reader_body.read_body(KEY.reveal(), IDS, CONTEXT.kind, sealed) == (b"meta", data)
    with reader(sealed) as body:
        again = reseal(body, b"other", KEY, CONTEXT, RANDOM, FreeSpace(tmp_path, 0), in_memory=True)
    assert isinstance(again, bytes)
    assert plain_of(again)[KIND_AT : KIND_AT + 9] == digest


@pytest.mark.parametrize("size", [0, 1000, frames.FRAME_BYTES + 1])
@pytest.mark.parametrize(("at", "wrong"), [(SHA_AT, "SHA-256"), (KIND_AT + 8, "XXH3-64")])
@pytest.mark.parametrize("fast", [False, True])
def test_a_wrong_digest_is_found_before_the_last_frame(
    tmp_path: Path, size: int, at: int, wrong: str, fast: bool
) -> None:
    """A frame that decodes to something else. On the way to a peer the XXH3-64 finds it, and a full check both."""
    data = os.urandom(size)
    plain = bytearray(plain_of(seal(tmp_path, data)))
    plain[at] ^= 1
    with reader(sealed_plain(bytes(plain))) as body:
        chunks, got = body.chunks(fast=fast), []
        if fast and wrong == "SHA-256":
            assert b"".join(chunks) == data
            return
        with pytest.raises(IntegrityError, match=wrong):
            got.extend(chunks)
    assert sum(map(len, got)) < max(size, 1)


def test_without_a_digest_even_the_fast_way_checks_the_sha256(tmp_path: Path) -> None:
    plain = bytearray(plain_of(seal(tmp_path, b"data set")))
    plain[KIND_AT : KIND_AT + 9] = bytes(9)
    plain[SHA_AT] ^= 1
    with reader(sealed_plain(bytes(plain))) as body, pytest.raises(IntegrityError, match="SHA-256"):
        list(body.chunks(fast=True))


@pytest.mark.parametrize("digest", [b"\2" + bytes(8), b"\xff" + bytes(8), bytes(8) + b"\1", b"\0\1" + bytes(7)])
def test_a_digest_of_an_unknown_kind_or_of_none_is_refused(tmp_path: Path, digest: bytes) -> None:
    plain = bytearray(plain_of(seal(tmp_path, b"data set")))
    plain[KIND_AT : KIND_AT + 9] = digest
    with pytest.raises(FormatError, match="digest"):
        reader(sealed_plain(bytes(plain)))
    with pytest.raises(ValueError, match="digest"):
        reader_body.read_body(KEY.reveal(), IDS, CONTEXT.kind, sealed_plain(bytes(plain)))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    for head in (data, bytes([VERSION, 0, 1]) + data):
        try:
            parsed = Head.parse(head)
        except FormatError:
            continue
        assert parsed.pack() == head[: HEAD.size]
