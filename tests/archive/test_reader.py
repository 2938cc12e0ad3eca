"""Reading beside a live writer, verified, and stopping at what is not finished."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coffer.archive.format.entry import Position
from coffer.archive.format.record import record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.reader import LogReader
from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import IntegrityError, NotFoundError
from tests.archive.conftest import SmallArchive, body_of, entry

START = SEGMENT_HEADER.size
ONE = record_size(40)
WRITER = """
import sys
from pathlib import Path
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import WriterLock
from coffer.archive.log import LogWriter
from tests.archive.conftest import SIGNER, entry

folder = ArchiveFolder.open(Path(sys.argv[1]))
with WriterLock(folder.lock, "writer", 1):
    log = LogWriter(folder, sign=SIGNER.sign_statement, now_ms=lambda: 1, segment_bytes=100_000)
    for n in range(int(sys.argv[2])):
        log.append([entry(n, 3000)])
    log.close()
"""


def test_beside_a_writer_in_another_process(small: SmallArchive) -> None:
    count = 1500
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(small.folder.path), str(count)], cwd=Path(__file__).parents[2]
    )
    reader = LogReader(small.folder)
    seen, rounds = 0, 0
    is_running = True
    while is_running:
        is_running = writer.poll() is None
        for position, header in reader.records(seen):
            assert (position.seq, header.seq) == (seen, seen)
            assert reader.read_body(position) == body_of(seen, 3000)
            seen += 1
        assert list(Verifier(small.folder).findings()) == []
        rounds += 1
    assert writer.returncode == 0
    assert seen == count
    assert rounds > 1
    reader.close()


def test_records_from_any_number_on(small: SmallArchive) -> None:
    places = small.fill(8, segment_bytes=START + 3 * ONE)
    reader = LogReader(small.folder)
    for first in range(10):
        assert [p for p, _ in reader.records(first)] == places[first:]
    reader.close()


def test_it_stops_at_an_incomplete_tail(small: SmallArchive) -> None:
    small.damaged = True
    small.fill(3)
    path = small.segments()[0]
    whole = path.read_bytes()
    reader = LogReader(small.folder)
    for size in range(START, len(whole)):
        os.truncate(path, size)
        assert len(list(reader.records())) == (size - START) // ONE
        path.write_bytes(whole)
    reader.close()


def test_a_damaged_record_of_a_sealed_segment_is_named(small: SmallArchive) -> None:
    small.damaged = True
    places = small.fill(8, segment_bytes=START + 3 * ONE)
    path = small.segments()[1]
    data = bytearray(path.read_bytes())
    data[START + ONE + 9] ^= 1
    path.write_bytes(data)
    reader = LogReader(small.folder)
    with pytest.raises(IntegrityError, match=f"segment 2, offset {START + ONE}"):
        list(reader.records())
    with pytest.raises(IntegrityError, match=f"segment 2, offset {START + ONE}, record 4"):
        reader.read_header(places[4])
    reader.close()


@pytest.mark.parametrize("at", [0, 3, 44, 47, 51], ids=["magic", "its end", "length", "length 2^32", "length by one"])
def test_damage_among_the_records_that_are_passed_over_is_named(small: SmallArchive, at: int) -> None:
    small.damaged = True
    small.fill(8, segment_bytes=START + 3 * ONE)
    path = small.segments()[1]
    data = bytearray(path.read_bytes())
    data[START + at] ^= 1
    path.write_bytes(data)
    reader = LogReader(small.folder)
    with pytest.raises(IntegrityError, match="segment 2, offset"):
        list(reader.records(5))
    reader.close()


def test_an_earlier_segment_without_footer_is_not_read_as_the_end(small: SmallArchive) -> None:
    small.damaged = True
    small.fill(8, segment_bytes=START + 3 * ONE)
    os.truncate(small.segments()[0], START + 2 * ONE + 10)
    reader = LogReader(small.folder)
    with pytest.raises(IntegrityError, match="segment 1"):
        list(reader.records())
    reader.close()


def test_a_damaged_body_is_never_returned(small: SmallArchive) -> None:
    small.damaged = True
    (place,) = small.fill(1)
    path = small.segments()[0]
    whole = path.read_bytes()
    reader = LogReader(small.folder)
    for n in range(40):
        data = bytearray(whole)
        data[START + 160 + n] ^= 4
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=f"segment 1, offset {START}, record 0"):
            reader.read_body(place)
    os.truncate(path, START + 170)
    with pytest.raises(IntegrityError, match="truncated"):
        reader.read_body(place)
    reader.close()


def test_another_place_is_refused(small: SmallArchive) -> None:
    first, second = small.fill(2)
    reader = LogReader(small.folder)
    for wrong in (
        Position(0, 0, 1, second.offset, 40),
        Position(0, 1, 1, first.offset, 40),
        Position(0, 0, 1, first.offset, 41),
        Position(0, 0, 1, first.offset + 8, 40),
        Position(0, 2, 1, second.offset + ONE, 40),
    ):
        with pytest.raises(IntegrityError):
            reader.read_body(wrong)
    with pytest.raises(NotFoundError, match="segment 9"):
        reader.read_body(Position(0, 0, 9, START, 40))
    reader.close()


def test_ranges_of_a_body(small: SmallArchive) -> None:
    (place,) = small.fill(1, size=5000)
    reader = LogReader(small.folder)
    read = reader.range_of(place)
    assert read(100, 50) == body_of(0, 5000)[100:150]  # type: ignore[call-arg]
    reader.close()
    assert reader.read_header(place).content_id == entry(0).content_id
    reader.close()
