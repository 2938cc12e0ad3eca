"""What no interruption leaves at the end of a log is refused: it is intact, and nobody may cut it."""

import os
import zlib
from hashlib import sha256

import pytest

from coffer.archive.format.record import record_size
from coffer.archive.format.segment import Footer
from coffer.keys.errors import IntegrityError
from tests.archive.conftest import SmallArchive
from tests.archive.repair.test_recovery import START, THREE, refused


@pytest.mark.parametrize("keep", [0, 1, 50, START - 1])
def test_a_segment_without_its_whole_header_is_refused(small: SmallArchive, keep: int) -> None:
    """A segment is begun with all of its header, or not at all: no interruption leaves that."""
    small.fill(4, segment_bytes=THREE)
    os.truncate(small.segments()[1], keep)
    refused(small, "shorter than its header")
    assert "shorter than its header" in {finding.what for finding in small.findings()}.pop()


def test_a_record_of_another_version_is_no_torn_write(small: SmallArchive) -> None:
    small.fill(2)
    path = small.segments()[0]
    data = bytearray(path.read_bytes())
    at = START + record_size(40)
    data[at + 4 : at + 6] = b"\0\4"
    data[at + 156 : at + 160] = zlib.crc32(data[at : at + 156]).to_bytes(4, "big")
    path.write_bytes(data)
    refused(small, "record version 4 is unknown")


@pytest.mark.parametrize("offsets", [[], [START], [START, START + record_size(40) + 8]], ids=["none", "one", "others"])
def test_a_last_footer_that_does_not_describe_its_records_is_refused(small: SmallArchive, offsets: list[int]) -> None:
    """An intact footer is none that was torn: where no segment follows yet, nothing else compares it."""
    small.fill(2)
    path = small.segments()[0]
    tip = small.writer()._end.chain
    made = Footer(tuple(offsets), tip.head, tip.tree.size, tip.tree.edge, tip.order.time_ms)
    path.write_bytes(path.read_bytes() + made.serialize())
    refused(small, "footer of segment 1 does not describe its records")


def test_a_planted_empty_footer_behind_nothing_is_refused(small: SmallArchive) -> None:
    log = small.writer()
    log.close()
    path, chain = small.segments()[0], log._end.chain
    path.write_bytes(path.read_bytes() + Footer((), chain.head, 0, (), 0).serialize())
    refused(small, "footer of segment 1 does not describe its records")


@pytest.mark.parametrize("sealed", [False, True])
def test_a_log_of_another_version_is_refused_with_a_sentence(small: SmallArchive, *, sealed: bool) -> None:
    small.fill(5, segment_bytes=THREE)
    path = small.segments()[0 if sealed else 1]
    data = bytearray(path.read_bytes())
    at = len(data) - int.from_bytes(data[-44:-36], "big") if sealed else 0
    data[at + 4 : at + 6] = b"\0\2"
    if sealed:
        data[-36:-4] = sha256(data[at:-44]).digest()
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="segment version 2 is unknown") as refusal:
        small.writer()
    assert refusal.value.hint() == "open it with the Coffer that wrote it"
    small.damaged = True
