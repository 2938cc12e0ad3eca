"""Groups, times and epochs (FORMAT.md): three readers, of which no two share code, keep the same rules."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from coffer.archive.format.merkle import Frontier
from coffer.archive.log import LogWriter
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.leaves import Leaves
from coffer.archive.verify.verify import Verifier
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.errors import HistoryError
from coffer.keys.memory.secret import Secret
from tests.archive.auditor import AUDITOR
from tests.archive.conftest import ORIGIN, SIGNER
from tests.archive.forge import Forged, ForgedSegment, begun, forge, open_end
from tests.vectors import reader_log

ONE = ForgedSegment([Forged(10), open_end(Forged(20)), Forged(30, group=1)])  # records 0 to 2
TWO = ForgedSegment([Forged(40)])  # record 3
EPOCH = ForgedSegment([begun(25), Forged(26)], epoch=1, behind=bytes(1000))  # records 4 and 5
GOOD = [ONE, TWO, EPOCH]


def with_records(segment: ForgedSegment, *records: Forged) -> ForgedSegment:
    """The segment with other records."""
    return replace(segment, records=records)


def of_epoch(number: int, at: int = 2) -> list[ForgedSegment]:
    """The good archive, where the header of a segment names this epoch and the records say what they did."""
    segments = [ONE, TWO, with_records(EPOCH, *EPOCH.records)]
    return [replace(each, epoch=number) if place == at else each for place, each in enumerate(segments)]


def body_of_begun(body: bytes) -> Forged:
    """The record that begins an epoch, with this body."""
    return replace(begun(25), body=body, content_id=sha256(body).digest())


def epoch_with(**changed: object) -> list[ForgedSegment]:
    """The good archive, with another record at the beginning of its epoch."""
    return [ONE, TWO, with_records(EPOCH, replace(begun(25), **changed), Forged(26))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "segments",
    [
        GOOD,
        [ForgedSegment([Forged(5), Forged(6)])],
        [ForgedSegment([Forged(5, kind=99)])],  # the log keeps what it does not know
        [ONE, with_records(TWO)],  # the last segment was just begun
        [replace(EPOCH, records=[begun(5)])],
        [ONE, replace(EPOCH, records=[begun(5)], behind=b""), replace(EPOCH, records=[begun(3, 2)], epoch=2)],
        [ForgedSegment([Forged(10, tag=b"\1" * 32 + bytes(32)), Forged(11)])],  # the newest tag vouches for all
    ],
    ids=["good", "singles", "unknown", "begun", "epoch", "epochs", "older"],
)
def test_all_readers_accept(tmp_path: Path, segments: list[ForgedSegment]) -> None:
    folder = forge(tmp_path / "log", segments)
    assert list(Verifier(folder).findings()) == []
    assert AUDITOR.Archive(folder.path, "", ()).found == []
    assert reader_log.Log(folder.path).tree.size == sum(len(s.records) for s in segments)


REJECTED = {
    "a group over two segments": [
        with_records(ONE, Forged(10), open_end(Forged(20))), with_records(TWO, Forged(40, group=1)),
    ],
    "a group that goes on in the next segment": [ONE, with_records(TWO, Forged(40, group=1))],
    "a tag in the middle": [with_records(ONE, Forged(10), Forged(20), Forged(30, group=1))],
    "a missing tag": [with_records(ONE, Forged(10), open_end(Forged(20)), Forged(30))],
    "a missing last tag": [with_records(ONE, Forged(10), open_end(Forged(20)))],
    "a footer behind a record without a tag": [with_records(ONE, open_end(Forged(10))), TWO],
    "a group before the one that is open": [with_records(ONE, Forged(10), open_end(Forged(20)), Forged(30, group=0))],
    "a group behind the record": [with_records(ONE, Forged(10), open_end(Forged(20)), Forged(30, group=3))],
    "a first record of another group": [with_records(ONE, Forged(10, group=1))],
    "a time that goes back": [with_records(ONE, Forged(10), Forged(9))],
    "a time that stands still": [with_records(ONE, Forged(10), Forged(10))],
    "a time that goes back inside a group": [with_records(ONE, open_end(Forged(10)), Forged(9, group=0))],
    "a time that goes back at a segment": [ONE, with_records(TWO, Forged(30))],
    "a time that goes back behind the begin of an epoch": [ONE, with_records(EPOCH, begun(25), Forged(25))],
    "an epoch that begins inside a segment": [with_records(ONE, Forged(10), begun(20))],
    "an epoch that begins far inside a segment": [with_records(ONE, *map(Forged, range(1, 9)), begun(20), Forged(30))],
    "an epoch that begins twice": [ONE, with_records(EPOCH, begun(40), begun(41))],
    "a later epoch that nothing begins": [ONE, replace(TWO, epoch=1)],
    "a first epoch that nothing begins": [replace(ONE, epoch=1)],
    "the begin of an epoch that is not later": [ONE, replace(EPOCH, epoch=0)],
    "another epoch in the header than the records say": of_epoch(7),
    "another epoch in the header than the body says": of_epoch(2),
    "an epoch that is skipped": [ONE, with_records(replace(EPOCH, epoch=2), begun(25, 2))],
    "an older segment of a later epoch": [replace(ONE, epoch=1), TWO, EPOCH],
    "an older segment of the epoch after it": of_epoch(1, at=1),
    "the body of another epoch": [ONE, with_records(EPOCH, begun(25, 2))],
    "the body of an epoch that names none": [ONE, with_records(EPOCH, body_of_begun(b'{"code":"log.epoch_begun"}'))],
    "an empty segment of an epoch that cannot be next": [ONE, TWO, ForgedSegment([], epoch=2)],
    "an empty segment of another log": [ONE, TWO, ForgedSegment([], log=1)],
    "an epoch that goes back": [ONE, replace(EPOCH, behind=b""), with_records(TWO, Forged(41))],
    "another log": [replace(ONE, log=1), TWO],
    "the begin of an epoch with a key": epoch_with(key_id=b"study key, 16 b."),
    "the begin of an epoch with another content id": epoch_with(content_id=sha256(b"").digest()),
}  # fmt: skip


@pytest.mark.parametrize("what", REJECTED)
def test_all_readers_reject(tmp_path: Path, what: str) -> None:
    folder = forge(tmp_path / "log", REJECTED[what])
    with pytest.raises(reader_log.RejectedError):
        reader_log.Log(folder.path)
    assert AUDITOR.Archive(folder.path, "", ()).found
    assert list(Verifier(folder).findings())


@pytest.mark.parametrize(
    ("what", "says"),
    {
        "a later epoch that nothing begins": "segment 2 is of epoch 1 .* no record begins that",
        "a first epoch that nothing begins": "segment 1 is of epoch 1 .* no record begins that",
        "the begin of an epoch that is not later": "segment 2 begins epoch 0 of the log behind epoch 0",
        "another epoch in the header than the records say": "segment 3 begins epoch 7 of the log behind epoch 0",
        "an epoch that is skipped": "segment 2 begins epoch 2 of the log behind epoch 0",
        "an older segment of a later epoch": "segment 1 is of epoch 1",
        "an older segment of the epoch after it": "segment 2 is of epoch 1",
        "the body of another epoch": "segment 2 is of epoch 1 of the log, and its first record begins epoch 2",
        "an empty segment of an epoch that cannot be next": "segment 3 is of epoch 2",
        "a time that stands still": "record 1 is not later than the record before it",
        "a group behind the record": "belongs to another group",
        "a first record of another group": "belongs to another group",
        "a time that goes back": "record 1 is not later than the record before it",
        "a tag in the middle": "record 2 belongs to another group",
        "an epoch that begins inside a segment": "begins an epoch of the log inside a segment",
    }.items(),
)
def test_a_writer_refuses_what_no_interruption_leaves_and_cuts_nothing(tmp_path: Path, what: str, says: str) -> None:
    folder = forge(tmp_path / "log", REJECTED[what])
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(HistoryError, match=says):
        LogWriter(folder, sign=SIGNER.sign_statement, now_ms=lambda: 1000)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("body", [b"no JSON", b'{"b":1,"a":2}', b'{"a": 1}', b"[1]"])
def test_the_second_reader_rejects_an_epoch_that_says_nothing(tmp_path: Path, body: bytes) -> None:
    folder = forge(tmp_path / "log", epoch_with(body=body, content_id=sha256(body).digest()))
    with pytest.raises(reader_log.RejectedError, match="record of an epoch"):
        reader_log.Log(folder.path)


def test_a_kind_that_is_not_written_yet_is_rejected(tmp_path: Path) -> None:
    folder = forge(tmp_path / "log", [ForgedSegment([Forged(10, kind=257)])])
    with pytest.raises(reader_log.RejectedError, match="not written yet"):
        reader_log.Log(folder.path)
    assert AUDITOR.Archive(folder.path, "", ()).found


@pytest.mark.parametrize("at", [0, 1, 500, 999])
def test_what_is_no_room_is_rejected(tmp_path: Path, at: int) -> None:
    """An auditor may take it for what a write left behind that was interrupted."""
    room = bytearray(1000)
    room[at] = 1
    folder = forge(tmp_path / "log", [ONE, replace(TWO, behind=bytes(room))])
    with pytest.raises(reader_log.RejectedError, match="record header"):
        reader_log.Log(folder.path)
    assert AUDITOR.Archive(folder.path, "", ()).torn == 1000
    assert list(Verifier(folder).findings())


def test_an_epoch_whose_segment_holds_nothing_has_not_begun(tmp_path: Path) -> None:
    folder = forge(tmp_path / "log", [ONE, ForgedSegment([], epoch=1)])
    assert list(Verifier(folder).findings()) == AUDITOR.Archive(folder.path, "", ()).found == []
    with pytest.raises(reader_log.RejectedError, match="epoch of the segment"):
        reader_log.Log(folder.path)  # it reads whole archives only


def test_a_segment_with_a_footer_has_no_room(tmp_path: Path) -> None:
    folder = forge(tmp_path / "log", [replace(ONE, behind=bytes(8)), TWO])
    with pytest.raises(reader_log.RejectedError, match="no footer"):
        reader_log.Log(folder.path)
    assert AUDITOR.Archive(folder.path, "", ()).found
    assert list(Verifier(folder).findings())


@pytest.mark.parametrize("field", [0, 16, 32, 36, 44, 52, 60])  # where each begins in what is signed
def test_a_last_tag_of_another_place_covers_nothing(tmp_path: Path, field: int) -> None:
    statement = bytearray(statement_of_two(tmp_path))
    statement[field] ^= 1
    require_uncovered(tmp_path, SIGNER.sign_statement(bytes(statement)))


@pytest.mark.parametrize("tag", [None, b"\xff" * 64, bytes(63) + b"\1"], ids=["another key", "no point", "nothing"])
def test_a_last_tag_that_the_archives_key_did_not_make_covers_nothing(tmp_path: Path, tag: bytes | None) -> None:
    other = CheckpointSigner(Secret(bytes(32)))
    require_uncovered(tmp_path, tag or other.sign_statement(statement_of_two(tmp_path)))


def statement_of_two(path: Path) -> bytes:
    """What the tag of record 3 must sign."""
    log = reader_log.Log(forge(path / "good", [ONE, TWO]).path)
    return bytes(log.groups[-1][1])


def require_uncovered(path: Path, tag: bytes) -> None:
    """With this tag in record 3 and no checkpoint, both verifiers say that nothing covers the four records. Under a
    checkpoint nobody asks for the tag."""
    folder = forge(path / "log", [ONE, with_records(TWO, replace(TWO.records[0], tag=tag))])
    covers = "neither a checkpoint nor a tag covers"
    assert [f.what for f in Verifier(folder).findings()] == [f"4 records from here on: {covers} them"]
    assert AUDITOR.Archive(folder.path, "", ()).found == [f"log: {covers} its 4 records from 0 on"]
    tree = Frontier()
    Leaves(folder).grow(tree, 4)
    note = SIGNER.sign_note(ORIGIN, Checkpoint(ORIGIN, 4, tree.root()).serialize())
    folder.checkpoint.write_bytes(note)
    folder.checkpoint_history.write_bytes(note)
    assert list(Verifier(folder).findings()) == AUDITOR.Archive(folder.path, "", ()).found == []
