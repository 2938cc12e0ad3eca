"""The epoch in a segment's header is under no hash: whoever alters it contradicts the records, or the mark outside."""

import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from coffer.archive.format.group import NO_LINEAGE
from coffer.archive.format.record import HEADER as RECORD_HEADER
from coffer.archive.format.record import record_size
from coffer.archive.format.segment import HEADER, parse_segment_header
from coffer.archive.log import LogWriter
from coffer.archive.repair.divergence import accept_loss, find_divergence, take_from
from coffer.archive.repair.repair import repair as repair_from
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.archive.tree.mark import Mark
from coffer.archive.verify.scrub import Scrub
from coffer.archive.verify.verify import Options, Verifier, VerifyLevel
from coffer.keys.errors import HistoryError, IntegrityError
from tests.archive.auditor import AUDITOR
from tests.archive.conftest import ORIGIN, SmallArchive, entry
from tests.archive.forge import begun_body

TWO = HEADER.size + 2 * record_size(40)
FULL = TWO + 60  # two records fit, even if one begins an epoch
KIND = HEADER.size + 6  # of a segment's first record


def set_epoch(path: Path, epoch: int) -> None:
    """Alter a segment's header, and its CRC."""
    data = path.read_bytes()
    path.write_bytes(replace(parse_segment_header(data[: HEADER.size]), epoch=epoch).serialize() + data[HEADER.size :])


def set_record(path: Path, at: int, value: bytes, body: bytes = b"") -> None:
    """Alter a segment's first record at this offset, or its whole body, with the hashes and the CRC of its header."""
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    start, end = HEADER.size, HEADER.size + RECORD_HEADER.size
    if body:
        data[end : end + len(body)] = body
        data[start + 24 : start + 40], digest = bytes(16), sha256(body).digest()
        data[start + 52 : start + 84] = data[start + 84 : start + 116] = digest
    data[end - 4 : end] = zlib.crc32(data[start : end - 4]).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.fixture
def epochs(small: SmallArchive) -> SmallArchive:
    """Four segments, all signed: 1 in epoch 0; 2 begins epoch 1; 3 and 4, which is open, go on in it."""
    small.fill(2, segment_bytes=FULL)
    log = small.writer(segment_bytes=FULL)
    log.begin_epoch(begun_body(1))
    for number in range(3, 7):
        log.append([entry(number)])
    log.checkpoint(small.sign)
    assert log.signed_epoch == 1
    log.close()
    assert [parse_segment_header(p.read_bytes()[: HEADER.size]).epoch for p in small.segments()] == [0, 1, 1, 1]
    return small


def mark_of(small: SmallArchive, epoch: int = 1) -> Mark:
    signed = read_checkpoint(small.folder)
    return Mark(small.folder.archive_id, ORIGIN, small.folder.vkey, signed.size, signed.root, 0, epoch, NO_LINEAGE)


def opened(small: SmallArchive, mark: Mark | None = None) -> LogWriter:
    return LogWriter(small.folder, sign=small.signer.sign_statement, now_ms=small.now_ms, outside=mark)


def repair(small: SmallArchive, copy: ArchiveFolder) -> None:
    assert not repair_from(small.folder, copy).remaining


def recover(small: SmallArchive, copy: ArchiveFolder) -> None:
    assert take_from(small.folder, find_divergence(small.folder, None), copy, small.signer, lambda note: None)


def scrubbed(small: SmallArchive) -> list[str]:
    """What a whole pass of the scrub finds, of which each step stands alone after a restart."""
    found: list[str] = []
    while True:
        scrub = Scrub(
            small.folder, remembered=lambda: None, now_ms=small.now_ms, pace=lambda _: None, on_finding=lambda _: None
        )
        found += [each.what for each in scrub.segment().findings]
        if scrub.position.passes:
            return found


@pytest.mark.parametrize(("number", "epoch"), [(1, 1), (1, 7), (2, 0), (2, 2), (2, 7), (3, 0), (3, 2), (4, 2), (4, 9)])
def test_another_epoch_in_a_header_is_found_by_all_and_not_written_on(
    epochs: SmallArchive, number: int, epoch: int
) -> None:
    opened(epochs, mark_of(epochs)).close()
    assert scrubbed(epochs) == epochs.findings() == []
    set_epoch(epochs.segments()[number - 1], epoch)
    epochs.damaged, before = True, epochs.files()
    (epochs.folder.scrub / "place.json").unlink()
    for level in (VerifyLevel.HEADERS, VerifyLevel.BODIES):
        found = list(Verifier(epochs.folder, Options(level)).findings())
        assert {each.segment for each in found} == {number}
        assert any(f"epoch {epoch} of the log" in each.what or "names" in each.what for each in found)
    assert AUDITOR.Archive(epochs.folder.path, "", ()).found
    for mark in (None, mark_of(epochs)):
        with pytest.raises(HistoryError, match=f"segment {number} (is of|begins) epoch {epoch}"):
            opened(epochs, mark)
    assert scrubbed(epochs)
    (epochs.folder.scrub / "place.json").unlink()
    assert epochs.files() == {k: v for k, v in before.items() if "place.json" not in k}


@pytest.mark.parametrize("way", ["one more", "one less"])
def test_headers_and_first_records_that_agree_contradict_the_mark(epochs: SmallArchive, way: str) -> None:
    """Opening does not read the inside of older segments; a verification does, and needs no mark."""
    _, second, third, last = epochs.segments()
    if way == "one more":
        set_record(third, KIND, b"\1\0", begun_body(2)[:40])  # opening finds its body damaged, and leaves that
        for path in (third, last):
            set_epoch(path, 2)
    else:
        set_record(second, KIND, b"\0\6")
        for path in (second, third, last):
            set_epoch(path, 0)
    epochs.damaged = True
    with pytest.raises(HistoryError, match="the mark outside the folder names epoch 1"):
        opened(epochs, mark_of(epochs))
    assert epochs.findings()
    assert find_divergence(epochs.folder, None, None, mark_of(epochs)).complaint is not None


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_mark_of_another_epoch_is_a_finding(epochs: SmallArchive, epoch: int) -> None:
    (found,) = Verifier(epochs.folder, outside=mark_of(epochs, epoch)).findings()
    assert (found.segment, found.seq) == (4, 6)
    assert found.what == f"the mark outside the folder names epoch {epoch} of the log here, and it is 1"
    assert list(Verifier(epochs.folder, outside=mark_of(epochs)).findings()) == []
    with pytest.raises(HistoryError, match="are of epoch 1 of the log"):
        opened(epochs, mark_of(epochs, epoch))


def test_the_mark_is_of_the_epoch_at_its_checkpoint(small: SmallArchive) -> None:
    """An epoch that began after it does not count: the records that it is of are those that were signed."""
    small.fill(2)
    log = small.writer()
    log.checkpoint(small.sign)
    log.begin_epoch(begun_body(1))
    assert (log.epoch, log.signed_epoch) == (1, 0)
    log.close()
    again = opened(small, mark_of(small, 0))
    assert (again.epoch, again.signed_epoch) == (1, 0)
    again.checkpoint(small.sign)
    assert again.signed_epoch == 1
    again.close()
    opened(small, mark_of(small, 1)).close()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("way", [repair, recover])
def test_a_header_is_put_right_from_a_copy(
    epochs: SmallArchive, tmp_path: Path, way: Callable[[SmallArchive, ArchiveFolder], object], number: int
) -> None:
    copy, before = tmp_path / "copy", epochs.segments()[number - 1].read_bytes()
    shutil.copytree(epochs.folder.path, copy)
    set_epoch(epochs.segments()[number - 1], 5)
    way(epochs, ArchiveFolder.open(copy))
    assert epochs.segments()[number - 1].read_bytes() == before
    opened(epochs, mark_of(epochs)).close()
    assert epochs.findings() == []


@pytest.mark.parametrize("what", ["a later epoch", "another log", "no record and a footer", "noise", "half a header"])
def test_a_planted_last_segment_is_refused_and_set_aside_by_an_administrator(small: SmallArchive, what: str) -> None:
    small.fill(4, segment_bytes=FULL)
    path = small.segments()[1]
    header = parse_segment_header(path.read_bytes()[: HEADER.size])
    made = {
        "a later epoch": replace(header, epoch=2).serialize(),
        "another log": replace(header, log=1).serialize(),
        "noise": b"\1" * 500,
        "half a header": header.serialize()[:40],
        "no record and a footer": header.serialize() + small.segments()[0].read_bytes()[TWO:],
    }[what]
    path.write_bytes(made)
    small.damaged, before = True, small.files()
    assert small.findings(bodies=False)
    assert AUDITOR.Archive(small.folder.path, "", ()).found
    with pytest.raises(IntegrityError):
        opened(small)
    assert small.files() == before
    history = find_divergence(small.folder, None)
    assert history.size == 2
    accept_loss(small.folder, history, small.signer, lambda note: None)
    assert made in {kept.read_bytes() for kept in small.folder.lost_and_found.iterdir()} or what.startswith("no record")
    log = small.writer()
    assert (log.next_seq, log.epoch) == (2, 0)
    log.append([entry(9)])
    log.close()
    assert small.findings() == []
