"""Record headers, trailers and padding."""

import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.format import record
from coffer.archive.format.record import HEADER, RecordHeader, parse_header, record_size, trailer
from coffer.keys.errors import FormatError

HASHES = st.binary(min_size=32, max_size=32)
U64 = st.integers(0, (1 << 64) - 1)
HEADERS = st.builds(
    RecordHeader,
    kind=st.integers(0, 65535),
    seq=U64,
    time_ms=U64,
    study_key_id=st.binary(min_size=16, max_size=16),
    flags=st.integers(0, (1 << 32) - 1),
    body_len=U64,
    content_id=HASHES,
    body_sha256=HASHES,
    prev_leaf=HASHES,
    group=U64,
)
ONE = RecordHeader(1, 2, 3, b"k" * 16, 1, 5, b"c" * 32, b"b" * 32, b"p" * 32, 1)


@given(HEADERS)
def test_a_header_reads_as_it_was_written(header: RecordHeader) -> None:
    header = replace(header, group=min(header.group, header.seq))
    raw = header.serialize()
    assert len(raw) == 160
    assert parse_header(raw) == header
    assert parse_header(raw).serialize() == raw


def test_every_flipped_bit_of_a_header_is_refused() -> None:
    raw = ONE.serialize()
    for bit in range(160 * 8):
        broken = bytearray(raw)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            parse_header(bytes(broken))


@pytest.mark.parametrize("length", [0, 1, 159, 161])
def test_another_length_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match="160 bytes"):
        parse_header(ONE.serialize()[:length].ljust(length, b"\0"))


@pytest.mark.parametrize(("offset", "value", "what"), [(4, b"\0\1", "version 1"), (4, b"\0\2", "version 2")])
def test_what_is_written_elsewise_is_refused_behind_a_right_crc(offset: int, value: bytes, what: str) -> None:
    raw = bytearray(ONE.serialize())
    raw[offset : offset + len(value)] = value
    raw[156:] = struct.pack(">I", zlib.crc32(raw[:156]))
    with pytest.raises(FormatError, match=what):
        parse_header(bytes(raw))


@given(st.integers(0, 1 << 40))
def test_a_record_is_aligned_and_its_size_is_known_from_its_body(length: int) -> None:
    closing = trailer(length)
    assert record_size(length) == HEADER.size + length + len(closing)
    assert record_size(length) % 8 == 0
    assert 96 <= len(closing) < 104
    assert closing[:8] == length.to_bytes(8, "big")
    assert closing[92:96] == b"CFRE"
    assert not any(closing[8:88])
    assert not any(closing[96:])


def test_the_chain_of_another_archive_starts_elsewhere() -> None:
    assert record.genesis_hash(bytes(16)) != record.genesis_hash(b"\1" + bytes(15))
