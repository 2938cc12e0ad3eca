"""Opening after any stop: torn ends are cut and kept, everything else is refused and nothing changed."""

import os
import shutil
from pathlib import Path

import pytest

from coffer.archive.format.record import record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.format.segment import parse_segment_header
from coffer.archive.log import LogWriter
from coffer.archive.repair.divergence import accept_loss, find_divergence
from coffer.archive.repair.tail import cut, read_tail
from coffer.archive.verify.findings import FindingStore
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.keys.memory.secret import Secret
from tests.archive.conftest import FaultyCalls, SmallArchive, append, entry
from tests.archive.forge import begun_body

ONE = record_size(37)  # ends in three bytes of padding
START = SEGMENT_HEADER.size
THREE = START + 3 * record_size(40)


def refused(small: SmallArchive, match: str) -> None:
    """Opening for writing raises, and no file is another than before."""
    small.damaged = True
    before = small.files()
    with pytest.raises(IntegrityError, match=match):
        small.writer()
    assert small.files() == before


def test_a_tail_torn_at_every_byte_of_the_last_record(small: SmallArchive) -> None:
    small.fill(3, size=37)
    path = small.segments()[0]
    whole = path.read_bytes()
    for keep in range(1, ONE):
        torn = whole[: START + 2 * ONE + keep]
        path.write_bytes(torn)
        log = small.writer()
        assert (log.next_seq, log.cut_bytes) == (2, keep)
        log.close()
        assert path.read_bytes() == whole[: START + 2 * ONE]
        (kept,) = small.folder.lost_and_found.iterdir()
        assert kept.read_bytes() == torn[START + 2 * ONE :]
        before = small.files()
        log = small.writer()
        assert log.cut_bytes == 0
        log.close()
        assert small.files() == before
        kept.unlink()
    path.write_bytes(whole)
    assert small.writer().next_seq == 3


def test_it_goes_on_behind_the_cut(small: SmallArchive) -> None:
    small.fill(3)
    path = small.segments()[0]
    os.truncate(path, path.stat().st_size - 5)
    places = small.fill(2, first=10)
    assert [p.seq for p in places] == [2, 3]


def test_a_tail_with_its_end_but_without_its_middle(small: SmallArchive) -> None:
    small.fill(2, size=20000)
    path = small.segments()[0]
    data = path.read_bytes()
    hole = START + record_size(20000) + 4096
    path.write_bytes(data[:hole] + bytes(4096) + data[hole + 4096 :])
    log = small.writer()
    assert (log.next_seq, log.cut_bytes) == (1, record_size(20000))


def test_a_hole_in_the_group_that_was_being_written_is_cut_with_what_lies_behind_it(small: SmallArchive) -> None:
    small.fill(2)
    log = small.writer()
    places = append(log, [entry(10), entry(11), entry(12)])
    log.close()
    path = small.segments()[0]
    data = bytearray(path.read_bytes())
    data[places[1].offset + 200] ^= 1
    path.write_bytes(data)
    log = small.writer()
    assert (log.next_seq, log.cut_bytes) == (2, 3 * record_size(40))
    log.close()
    (kept,) = small.folder.lost_and_found.iterdir()
    assert kept.read_bytes() == data[places[0].offset :]
    (finding,) = FindingStore(small.folder.scrub).open_entries()
    assert (finding.segment, finding.offset, finding.kept) == (1, places[0].offset, kept.name)
    assert "3 records" in finding.what
    assert kept.name in finding.what


def test_what_was_cut_waits_for_an_answer_and_goes_once_it_has_one(small: SmallArchive) -> None:
    small.fill(2, size=20000)
    path = small.segments()[0]
    path.write_bytes(path.read_bytes()[:-5000])
    small.writer()
    ledger = FindingStore(small.folder.scrub, key=Secret(bytes(32)))
    (finding,) = ledger.open_entries()
    assert ledger.settle([0, 1], []) == []
    assert ledger.open_entries() == [finding]
    ledger.acknowledge([finding.name], 5)
    assert [entry.name for entry in ledger.settle([], [])] == [finding.name]
    assert ledger.entries() == []


def test_a_hole_before_a_later_group_is_refused(small: SmallArchive) -> None:
    small.fill(2)
    log = small.writer()
    places = append(log, [entry(10), entry(11), entry(12)])
    log.append([entry(13)])
    log.close()
    path = small.segments()[0]
    data = bytearray(path.read_bytes())
    data[places[1].offset + 200] ^= 1
    path.write_bytes(data)
    refused(small, "records follow the damage")


def test_a_hole_before_a_footer_is_refused(small: SmallArchive) -> None:
    log = small.writer(segment_bytes=START + 2 * record_size(40))
    places = append(log, [entry(0), entry(1)])
    log.append([entry(2)])
    log.close()
    first, second = small.segments()
    second.unlink()
    data = bytearray(first.read_bytes())
    data[places[1].offset + 200] ^= 1
    first.write_bytes(data)
    refused(small, "records follow the damage")


def test_zeros_behind_the_end_are_room_and_no_torn_write(small: SmallArchive) -> None:
    small.fill(2)
    path = small.segments()[0]
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(5000))
    assert small.findings() == []
    assert small.writer().cut_bytes == 0
    assert path.read_bytes() == whole
    assert not [*small.folder.lost_and_found.iterdir()]


def test_a_group_without_its_tag_was_never_acknowledged(small: SmallArchive) -> None:
    """Every record of it is whole but the last, which alone can say that the group is."""
    small.fill(2)
    log = small.writer()
    places = append(log, [entry(10), entry(11), entry(12)])
    log.close()
    os.truncate(small.segments()[0], places[2].offset)
    log = small.writer()
    assert (log.next_seq, log.cut_bytes) == (2, places[2].offset - places[0].offset)


def test_a_tag_by_another_key_is_refused(small: SmallArchive) -> None:
    small.fill(2)
    small.checkpoint()
    other = LogWriter(small.folder, sign=CheckpointSigner(Secret(bytes(32))).sign_statement, now_ms=small.now_ms)
    other.append([entry(2)])
    other.append([entry(3)])
    other.close()
    assert [(f.seq, f.what) for f in small.findings()] == [
        (2, "2 records from here on: neither a checkpoint nor a tag covers them")
    ]
    refused(small, "the newest 2 records were not written by this archive")


def test_records_that_nothing_vouches_for_are_not_accepted_with_a_loss(small: SmallArchive) -> None:
    """Whoever writes the disk appends a group that fits, under a tag of his own: it is not signed, but set aside."""
    small.fill(2)
    small.checkpoint()
    log = small.writer()
    log.append([entry(2)])  # genuine, and covered by its tag alone
    log.close()
    other = LogWriter(small.folder, sign=CheckpointSigner(Secret(bytes(32))).sign_statement, now_ms=small.now_ms)
    other.append([entry(3)])
    other.append([entry(4)])
    other.close()
    history = find_divergence(small.folder, None)
    assert (history.size, history.complaint is not None, history.left_over > 0) == (3, True, True)
    accept_loss(small.folder, history, small.signer, lambda _: None)
    assert small.findings() == []
    assert small.writer().next_seq == 3


def test_an_epoch_begins_a_segment_also_after_a_stop_at_its_first_record(small: SmallArchive) -> None:
    small.fill(2)
    log = small.writer()
    place = log.begin_epoch(begun_body(1))
    log.append([entry(2)])
    log.close()
    assert (place.segment, place.seq) == (2, 2)
    os.truncate(small.segments()[1], place.offset + 50)
    log = small.writer()
    assert (log.next_seq, log.cut_bytes) == (2, START + 50)
    log.append([entry(3)])
    log.close()
    header = parse_segment_header(small.segments()[1].read_bytes()[:START])
    assert (header.epoch, header.first_seq) == (0, 2)


def test_half_a_copy_in_lost_and_found_is_written_again(small: SmallArchive, faulty: FaultyCalls) -> None:
    small.fill(2)
    path = small.segments()[0]
    os.truncate(path, path.stat().st_size - 8)
    cut(small.folder, read_tail(small.folder), small.now_ms)
    (kept,) = small.folder.lost_and_found.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:10])
    path.write_bytes(path.read_bytes() + whole)
    small.writer(calls=faulty)
    assert kept.read_bytes() == whole
    made = faulty.made[faulty.made.index("unlink") :]
    assert made.index("fsync") < made.index("rename") < made.index("ftruncate")
    assert made[made.index("ftruncate") :][:3] == ["ftruncate", "lseek", "fdatasync"]


@pytest.mark.parametrize("offset", [0, 20, 100, 159, record_size(40) - 1])
def test_damage_in_the_middle_is_refused(small: SmallArchive, offset: int) -> None:
    small.fill(3)
    path = small.segments()[0]
    data = bytearray(path.read_bytes())
    data[START + record_size(40) + offset] ^= 1
    path.write_bytes(data)
    refused(small, "records follow the damage")


@pytest.mark.parametrize("behind", [1, 5])
def test_a_damaged_body_that_was_stable_stays_and_is_told(small: SmallArchive, behind: int) -> None:
    """A record of a later group follows: it was acknowledged. Nothing is cut, and the archive can be written."""
    log = small.writer(segment_bytes=THREE if behind == 5 else 1 << 30)
    places = [append(log, [entry(n)])[0] for n in range(2 + behind)]
    log.close()
    damaged = places[-1 - behind]
    path = small.folder.segment_files.path(damaged.segment)
    data = bytearray(path.read_bytes())
    data[damaged.offset + 165] ^= 1
    path.write_bytes(data)
    small.damaged = True
    log = small.writer()
    assert (log.next_seq, log.cut_bytes) == (2 + behind, 0)
    assert append(log, [entry(50)])[0].seq == 2 + behind
    log.close()
    assert not any(small.folder.lost_and_found.iterdir())
    if damaged.segment == places[-1].segment:  # what lies in sealed segments is for a verification
        (finding,) = FindingStore(small.folder.scrub).open_entries()
        assert (finding.record, finding.what) == (damaged.seq, "the body does not match its hash")
    (seen,) = small.findings()
    assert (seen.seq, seen.offset, seen.what) == (
        damaged.seq, damaged.offset + 160, "the body does not match its hash",
    )  # fmt: skip


def test_a_torn_record_of_a_later_group_shows_that_a_damaged_body_was_stable(small: SmallArchive) -> None:
    small.fill(3)
    path = small.segments()[0]
    data = bytearray(path.read_bytes()[:-8])  # the third record is torn, its header is whole
    data[START + record_size(40) + 165] ^= 1
    path.write_bytes(data)
    small.damaged = True
    log = small.writer()
    assert log.next_seq == 2
    log.close()
    records = [finding.record for finding in FindingStore(small.folder.scrub).open_entries()]
    assert records == [1, None]  # the damaged one, and what was cut


def test_damage_in_the_segment_header_is_refused(small: SmallArchive) -> None:
    small.fill(2)
    path = small.segments()[0]
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    refused(small, "header is damaged")


def test_a_crash_between_footer_and_new_segment(small: SmallArchive) -> None:
    small.fill(4, segment_bytes=THREE)
    small.segments()[1].unlink()
    log = small.writer()
    assert (log.next_seq, log.cut_bytes) == (3, 0)
    (place,) = append(log, [entry(3)])
    assert (place.segment, place.offset) == (2, START)


def test_a_footer_torn_at_every_byte_or_with_a_hole_is_written_again(small: SmallArchive) -> None:
    small.fill(4, segment_bytes=THREE)
    first, second = small.segments()
    second.unlink()
    whole = first.read_bytes()
    for keep in range(THREE, len(whole)):
        first.write_bytes(whole[:keep])
        log = small.writer()
        assert (log.next_seq, log.cut_bytes) == (3, keep - THREE)
        log.close()
    first.write_bytes(whole[: THREE + 20] + bytes(20) + whole[THREE + 40 :])
    log = small.writer(segment_bytes=THREE)
    assert log.next_seq == 3
    (place,) = append(log, [entry(3)])
    assert place.segment == 2
    assert first.read_bytes() == whole


def test_a_missing_segment_is_refused(small: SmallArchive) -> None:
    small.fill(8, segment_bytes=THREE)
    small.segments()[1].unlink()
    refused(small, "missing")


def test_an_earlier_segment_without_footer_is_refused(small: SmallArchive) -> None:
    small.fill(4, segment_bytes=THREE)
    os.truncate(small.segments()[0], THREE)
    refused(small, "no footer")


@pytest.mark.parametrize("records", [0, 1, 2])
def test_a_log_shorter_than_its_checkpoint_is_refused(small: SmallArchive, records: int) -> None:
    small.fill(3)
    small.checkpoint()
    os.truncate(small.segments()[0], START + records * record_size(40))
    refused(small, f"ends at record {records}, but a signed checkpoint covers 3")


def test_a_torn_record_under_the_checkpoint_is_refused(small: SmallArchive) -> None:
    small.fill(3)
    small.checkpoint()
    os.truncate(small.segments()[0], START + 3 * record_size(40) - 1)
    refused(small, "covers 3")


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_fork_is_refused(small: SmallArchive, tmp_path: Path, count: int) -> None:
    small.fill(3, segment_bytes=THREE)
    small.checkpoint()
    other = SmallArchive(tmp_path / "other")
    other.fill(count, first=100, segment_bytes=THREE)
    for path in other.segments():
        shutil.copy(path, small.folder.segments)
    refused(small, "not those that were signed")
    other.close()


def test_a_damaged_checkpoint_is_refused(small: SmallArchive) -> None:
    small.fill(1)
    small.checkpoint()
    note = bytearray(small.folder.checkpoint.read_bytes())
    note[-10] ^= 1
    small.folder.checkpoint.write_bytes(note)
    refused(small, "signature|note")


def test_a_segment_of_a_twin_is_refused(small: SmallArchive, tmp_path: Path) -> None:
    small.fill(8, segment_bytes=THREE)
    other = SmallArchive(tmp_path / "other")
    other.fill(8, first=50, segment_bytes=THREE)
    shutil.copy(other.segments()[2], small.segments()[2])
    refused(small, "does not continue the one before it")
    other.close()


@pytest.mark.parametrize("step", range(26))
@pytest.mark.parametrize("after_effect", [False, True])
def test_a_fault_while_recovering_loses_nothing(
    small: SmallArchive, faulty: FaultyCalls, step: int, *, after_effect: bool
) -> None:
    small.fill(3)
    path = small.segments()[0]
    os.truncate(path, path.stat().st_size - 5)
    torn = path.read_bytes()[START + 2 * record_size(40) :]
    faulty.arm(step, after_effect=after_effect)
    try:
        small.writer(calls=faulty)
    except UnavailableError:
        assert small.writer().next_seq == 2
    (kept,) = [p for p in small.folder.lost_and_found.iterdir() if not p.name.startswith(".")]
    assert kept.read_bytes() == torn
