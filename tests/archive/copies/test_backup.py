"""Snapshots: what they hold, what a second one sends, and what is found when a target or the archive is damaged."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from coffer.archive.copies.memory_target import MemoryTarget
from coffer.archive.copies.segments import as_archive
from coffer.archive.copies.shelf import Shelf, Unusable, archives_at, find_snapshot
from coffer.archive.copies.snapshot import Snapshot
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.checkpoint_history import read_entries
from coffer.archive.verify.verify import Options, Verifier
from coffer.keys.errors import CofferError, FormatError, IntegrityError, NotFoundError, UnavailableError
from tests.archive.copies.conftest import PIECE, BackedUp, snapshot_id


def found_in(shelf: Shelf, snapshot: Snapshot) -> list[str]:
    """Everything that a verification of a snapshot finds, and what makes it impossible."""
    try:
        with as_archive(shelf, snapshot) as folder:
            return [each.what for each in Verifier(folder).findings()]
    except CofferError as error:
        return [str(error)]


def test_a_snapshot_ends_at_the_checkpoint(backed: BackedUp) -> None:
    backed.archive.fill(3, first=20)
    made = backed.run()
    assert (made.size, made.findings, [each.number for each in made.segments]) == (20, 0, list(range(1, 8)))
    with as_archive(backed.shelf, made) as folder:
        verifier = Verifier(folder)
        assert list(verifier.findings()) == []
        assert verifier.summary.records == 20


def test_the_second_night_sends_what_is_new(backed: BackedUp) -> None:
    first = backed.run()
    backed.run()
    assert backed.uploaded == 0
    backed.archive.fill(1, first=20, size=3000, segment_bytes=10_000)
    backed.archive.checkpoint()
    third = backed.run()
    assert third.size == 21
    assert 3000 < backed.uploaded < 3000 + 2 * PIECE
    assert third.segments[:6] == first.segments[:6]


def test_the_growing_segment_is_not_sent_again_as_a_whole(backed: BackedUp) -> None:
    backed.archive.fill(10, first=20, size=3000)
    backed.archive.checkpoint()
    backed.run()
    backed.archive.fill(1, first=30, size=100)
    backed.archive.checkpoint()
    backed.run()
    assert backed.uploaded < 2 * PIECE + 4096  # the last piece of the segment and the history


def test_an_empty_archive_has_a_snapshot(small: object, backed: BackedUp) -> None:
    assert backed.shelf.ids() == []
    assert archives_at(backed.target) == []
    with pytest.raises(NotFoundError):
        find_snapshot(backed.target, "latest")


def test_an_interrupted_run_is_continued(backed: BackedUp, memory: MemoryTarget) -> None:
    put, left = memory.put, [5]

    def failing(name: str, data: bytes) -> None:
        left[0] -= "pieces" in name
        if left[0] < 0:
            raise UnavailableError("the target is gone")
        put(name, data)

    memory.put = failing  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError):
        backed.run()
    memory.put = put  # type: ignore[method-assign]
    assert backed.shelf.ids() == []
    made = backed.run()
    assert backed.last is not None
    assert backed.last.reused >= 5 * 1000
    assert found_in(backed.shelf, made) == []


def test_a_piece_that_an_interrupted_run_left_is_not_believed(backed: BackedUp, memory: MemoryTarget) -> None:
    made = backed.run()
    memory.remove(backed.shelf.snapshot_name(made.id))
    name = backed.shelf.piece_name(made.segments[0].blob.pieces[0])
    data = memory.get(name)
    memory.put(name, data[:-1] + bytes([data[-1] ^ 1]))
    again = backed.run()
    assert memory.get(name) == data
    assert found_in(backed.shelf, again) == []


def test_damage_of_the_archive_is_counted_and_stops_nothing(backed: BackedUp) -> None:
    path = backed.archive.segments()[2]
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    backed.archive.damaged = True
    made = backed.run()
    assert made.findings == 1
    assert backed.shelf.snapshot(made.id) == made
    data[2000] ^= 1
    path.write_bytes(data)
    repaired = backed.run()
    assert (repaired.findings, found_in(backed.shelf, repaired)) == (0, [])


def test_what_the_target_does_not_return_is_no_snapshot(backed: BackedUp, memory: MemoryTarget) -> None:
    put = memory.put

    def lossy(name: str, data: bytes) -> None:
        put(name, bytes([data[0] ^ 1]) + bytes(data[1:]) if "pieces" in name else data)

    memory.put = lossy  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError, match="does not return what was stored"):
        backed.run()
    assert backed.shelf.ids() == []


def test_every_piece_is_sent_read_back_and_verified_once(backed: BackedUp, memory: MemoryTarget) -> None:
    get, asked = memory.get, list[str]()

    def counting(name: str, most: int = 1 << 30) -> bytes:
        asked.append(name)
        return get(name, most)

    memory.get = counting  # type: ignore[method-assign]
    made = backed.run()
    segments = {backed.shelf.piece_name(piece) for each in made.segments for piece in each.blob.pieces}
    assert sorted(name for name in asked if name in segments) == sorted(segments)
    asked.clear()
    assert found_as_a_snapshot(backed.shelf, made) == []
    assert sorted(name for name in asked if name in segments) == sorted(segments)


def found_as_a_snapshot(shelf: Shelf, snapshot: Snapshot) -> list[str]:
    with as_archive(shelf, snapshot) as folder:
        return [each.what for each in Verifier(folder, Options(tiles=False)).findings()]


def test_every_checkpoint_of_a_snapshot_s_history_is_compared(backed: BackedUp) -> None:
    backed.archive.fill(3, first=20)
    backed.archive.checkpoint()
    made = backed.run()
    with as_archive(backed.shelf, made) as folder:
        signer = backed.archive.signer
        lie = signer.sign_note(folder.origin, Checkpoint(folder.origin, 15, bytes(32)).serialize())
        path, notes = folder.checkpoint_history, [each.note for each in read_entries(folder)]
        assert [each.size for each, _ in read_entries(folder)] == [0, 20, 23]
        path.write_bytes(b"".join([*notes[:1], lie, *notes[1:]]))
        found = [each.what for each in Verifier(folder, Options(tiles=False)).findings()]
        assert found == ["the first 15 records are not those that were signed"]
        path.write_bytes(b"".join([notes[1], notes[0], notes[2]]))
        (out_of_order,) = Verifier(folder, Options(tiles=False)).findings()
        assert "out of order" in out_of_order.what


@pytest.mark.parametrize("what", ["flip", "cut", "gone", "swap"])
def test_every_piece_that_is_tampered_with_is_found(backed: BackedUp, memory: MemoryTarget, what: str) -> None:
    made = backed.run()
    before = dict(memory.objects)
    pieces = sorted({piece for blob in made.blobs() for piece in blob.pieces})
    for piece in pieces:
        name = backed.shelf.piece_name(piece)
        data = memory.get(name)
        if what == "gone":
            memory.remove(name)
        else:
            other = memory.get(backed.shelf.piece_name(pieces[pieces.index(piece) - 1]))
            memory.put(name, {"flip": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "swap": other}[what])
        assert found_in(backed.shelf, made), what
        memory.objects = dict(before)
    assert found_in(backed.shelf, made) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda made: replace(made, segments=made.segments[:-1]),
        lambda made: replace(made, segments=(made.segments[0],) * 1 + made.segments[2:]),
        lambda made: replace(made, parts=tuple(p for p in made.parts if p.name != "checkpoints/latest")),
        lambda made: replace(made, parts=tuple(p for p in made.parts if p.name != "archive.json")),
    ],
)
def test_a_list_that_leaves_something_out_is_found(backed: BackedUp, change: Callable[[Snapshot], Snapshot]) -> None:
    made = change(backed.run())
    backed.target.put(backed.shelf.snapshot_name(made.id), made.serialize())
    try:
        found = found_in(backed.shelf, backed.shelf.snapshot(made.id))
    except FormatError:
        return
    assert found


def test_a_lost_piece_of_a_sealed_segment_is_sent_again(backed: BackedUp, memory: MemoryTarget) -> None:
    made = backed.run()
    memory.remove(backed.shelf.piece_name(made.segments[1].blob.pieces[0]))
    again = backed.run()
    assert backed.uploaded == PIECE
    assert found_in(backed.shelf, again) == []


def test_a_list_under_another_name_is_refused(backed: BackedUp) -> None:
    made = backed.run()
    other = snapshot_id(235959)
    backed.target.put(backed.shelf.snapshot_name(other), made.serialize())
    with pytest.raises(IntegrityError):
        backed.shelf.snapshot(other)
    assert [type(each) for each in backed.shelf.snapshots()] == [Snapshot, Unusable]
    assert find_snapshot(backed.target, made.id) == (backed.shelf, made)
