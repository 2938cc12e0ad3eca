"""A batch passes only if every rule holds for every record, also where all hashes were made to fit the broken one."""

import zlib
from collections.abc import Callable
from hashlib import sha256

import pytest

from coffer.archive.format import headers
from coffer.archive.format.batch import RecordBatch
from coffer.archive.format.merkle import leaf_hash
from coffer.archive.format.order import Order
from coffer.archive.format.record import NO_TAG, TRAILER, RecordHeader, trailer
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.format.segment import Footer
from coffer.archive.verify.report import Task, VerifyLevel
from coffer.archive.verify.scan import scan
from tests.archive.conftest import SmallArchive, entry

FIRST, START = 7, sha256(b"start").digest()
LENGTHS = (5, 0, 8, 40_000)
TAG = bytes(range(80))
Edit = Callable[[bytearray], None]


def batch_of(edit: Edit | None = None, place: int = 1, *, crc: bool = True) -> tuple[RecordBatch, list[bytes]]:
    """Four records that chain, in two groups of two; the header at `place` is edited before the next ones are chained
    to it."""
    batch, heads = RecordBatch(0), [START]
    for number, length in enumerate(LENGTHS):
        body = sha256(b"").digest()
        header = RecordHeader(
            1, FIRST + number, 1 + number, bytes(16), 0, length, bytes(32), body, heads[-1], FIRST + number // 2 * 2
        )
        raw = bytearray(header.serialize())
        if edit is not None and number == place:
            edit(raw)
            if crc:
                raw[156:] = zlib.crc32(raw[:156]).to_bytes(4, "big")
        batch.offsets.append(number)
        batch.raws.append(bytes(raw))
        closing = trailer(length, TAG if number % 2 else NO_TAG)
        batch.trailers.append(closing[: TRAILER.size])
        batch.paddings.append(closing[TRAILER.size :])
        heads.append(leaf_hash(raw))
    return batch, heads


def test_a_good_batch() -> None:
    batch, heads = batch_of()
    assert headers.check(batch, FIRST, START, Order(0), []) == heads[1:]


def put(at: int, value: bytes) -> Edit:
    def edit(raw: bytearray) -> None:
        raw[at : at + len(value)] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(put(0, b"CFRX"), id="magic"),
        pytest.param(put(4, b"\0\1"), id="version"),
        pytest.param(put(8, (FIRST + 9).to_bytes(8, "big")), id="number"),
        pytest.param(put(51, b"\7"), id="length"),
        pytest.param(put(116, bytes(32)), id="chain"),
        pytest.param(put(155, b"\xff"), id="group"),
        pytest.param(put(23, b"\0"), id="time"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_header_that_breaks_one_rule_in_a_chain_that_fits_it(edit: Edit, place: int) -> None:
    batch, _ = batch_of(edit, place)
    assert headers.check(batch, FIRST, START, Order(0), []) is None


@pytest.mark.parametrize("place", [0, 3])
def test_a_wrong_crc_in_a_chain_that_fits_it(place: int) -> None:
    batch, _ = batch_of(put(159, b"\xee"), place, crc=False)
    assert headers.check(batch, FIRST, START, Order(0), []) is None


@pytest.mark.parametrize("place", range(4))
def test_every_byte_of_a_trailer_and_its_padding(place: int) -> None:
    for offset in range(len(trailer(LENGTHS[place]))):
        batch, _ = batch_of()
        closing = bytearray(batch.trailers[place] + batch.paddings[place])
        closing[offset] ^= 1
        batch.trailers[place], batch.paddings[place] = bytes(closing[:96]), bytes(closing[96:])
        assert headers.check(batch, FIRST, START, Order(0), []) is None


def test_bodies_count_where_they_were_read() -> None:
    batch, _ = batch_of()
    good, bad = sha256(b"").digest(), bytes(32)
    assert headers.check(batch, FIRST, START, Order(0), [good, None, None, good]) is not None
    assert headers.check(batch, FIRST, START, Order(0), [good, None, bad, good]) is None
    assert headers.check(batch, FIRST + 1, START, Order(0), []) is None
    assert headers.check(batch, FIRST, bad, Order(0), []) is None


@pytest.mark.parametrize("change", ["swap", "shift", "drop"])
def test_a_footer_that_lists_other_offsets(small: SmallArchive, change: str) -> None:
    """Well formed in itself: its hash and all else it says is right."""
    small.fill(4, segment_bytes=SEGMENT_HEADER.size + 3 * 296)
    small.damaged = True
    path = small.segments()[0]
    data = path.read_bytes()
    length = int.from_bytes(data[-44:-36], "big")
    offsets = [88, 384, 680]
    assert data[-length:] == Footer(tuple(offsets), *_state(data[-length:])).serialize()
    listed = {"swap": (384, 88, 680), "shift": (88, 392, 680), "drop": (88, 384)}[change]
    path.write_bytes(data[:-length] + Footer(listed, *_state(data[-length:])).serialize())
    task = Task.of(small.folder, 1, is_last=False, level=VerifyLevel.BODIES)
    assert [f.what for f in scan(task).findings] == ["the footer does not describe this segment's records"]


def _state(footer: bytes) -> tuple[bytes, int, tuple[bytes, ...], int]:
    """Head, size, edge and time as a footer of three records has them."""
    return footer[16:48], 3, (footer[64:96], footer[96:128]), int.from_bytes(footer[56:64], "big")


def test_an_unsigned_last_record_has_only_its_crc(small: SmallArchive) -> None:
    """Nothing chains to it and nothing is signed: time and ids of it are covered by its CRC alone."""
    log = small.writer()
    log.append([entry(0), entry(1)])
    log.close()
    small.damaged = True
    path = small.segments()[0]
    data = bytearray(path.read_bytes())
    data[-296 + 20] ^= 1
    path.write_bytes(data)
    assert [f.what for f in small.findings()] == [
        "the record header is damaged (CRC)",
        "1 record from here on: neither a checkpoint nor a tag covers them",
    ]
