"""What every store of segments promises: in a folder, in memory, and through a connection that loses answers."""

import os
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from coffer.archive.reader import LogReader
from coffer.archive.repair.divergence import find_divergence
from coffer.archive.repair.repair import repair
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.folder_segments import FolderSegments
from coffer.archive.store.memory_segments import MemorySegments
from coffer.archive.store.segment_files import SegmentFiles
from coffer.archive.store.segment_store import LOG, SealedSegment, SegmentStore, segment_numbers, total_bytes
from coffer.archive.store.source import MemorySource
from coffer.archive.verify.verify import Verifier
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import (
    CofferError,
    HistoryError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
    UnreadableError,
)
from tests.archive.conftest import FaultyCalls, SmallArchive
from tests.archive.store.faulty import FaultySegments, Patient

ONE, TWO = os.urandom(3000), os.urandom(3000)


def sealed(number: int, data: bytes) -> SealedSegment:
    return SealedSegment.of(number, partial(MemorySource, data))


@dataclass(frozen=True)
class Place:
    """A store, how to look into its lost+found, and how much it was made to hold."""

    store: SegmentStore
    kept: Callable[[], dict[str, bytes]]

    def held(self, number: int) -> bytes:
        with self.store.open(LOG, number) as source:
            return source.read(0, source.size)


def folder_place(path: Path, calls: Syscalls = SYSTEM) -> Place:
    """An empty store in a folder."""
    files = SegmentFiles(path / "segments", path / "lost+found")
    files.folder.mkdir()
    files.lost_and_found.mkdir()
    return Place(FolderSegments(files, calls), lambda: {p.name: p.read_bytes() for p in files.lost_and_found.iterdir()})


def memory_place(most_bytes: int | None = None) -> Place:
    """An empty store in memory."""
    store = MemorySegments(most_bytes)
    return Place(store, lambda: dict(store.lost_and_found))


@pytest.fixture(params=["folder", "memory", "folder, answers lost", "memory, answers lost", "folder, short reads"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    kind, _, fault = request.param.partition(", ")
    made = folder_place(tmp_path) if kind == "folder" else memory_place()
    if fault == "answers lost":
        seed = random.randrange(1 << 32)
        print("seed", seed)
        return Place(Patient(FaultySegments(made.store, seed)), made.kept)
    if fault == "short reads":
        real = os.pread
        monkeypatch.setattr(os, "pread", lambda fd, length, offset: real(fd, min(length, 700), offset))
    return made


def test_what_is_put_is_there_at_once(place: Place) -> None:
    receipt = place.store.put(sealed(2, TWO))
    assert receipt == (LOG, 2, len(TWO), sha256(TWO).digest())
    assert place.store.segments(LOG) == [(2, len(TWO))]
    place.store.put(sealed(1, ONE))
    assert place.store.segments(LOG) == [(1, len(ONE)), (2, len(TWO))]
    assert (place.held(1), place.held(2)) == (ONE, TWO)
    assert segment_numbers(place.store) == [1, 2]
    assert total_bytes(place.store) == len(ONE) + len(TWO)


def test_putting_the_same_again_is_the_same(place: Place) -> None:
    assert place.store.put(sealed(1, ONE)) == place.store.put(sealed(1, ONE))
    assert (place.held(1), place.kept()) == (ONE, {})


def test_other_bytes_under_a_number_are_kept_and_refused(place: Place) -> None:
    place.store.put(sealed(1, ONE))
    with pytest.raises(HistoryError, match="segment 1 is there already"):
        place.store.put(sealed(1, TWO))
    assert place.held(1) == ONE
    assert list(place.kept().values()) == [TWO]
    with pytest.raises(HistoryError):
        place.store.put(sealed(1, TWO))
    assert list(place.kept().values()) == [TWO]


def test_what_is_not_the_bytes_it_names_is_not_put(place: Place) -> None:
    lie = replace(sealed(1, ONE), open=partial(MemorySource, TWO))
    cut = replace(sealed(1, ONE), open=partial(MemorySource, ONE[:-1]))
    for wrong in (lie, cut):
        with pytest.raises(IntegrityError, match="segment 1 was not"):
            place.store.put(wrong)
        with pytest.raises(IntegrityError, match="segment 1 was not"):
            place.store.replace(wrong, "kept")
    assert place.store.segments(LOG) == []
    assert place.kept() == {}


def test_a_replaced_segment_is_kept_under_its_name(place: Place) -> None:
    place.store.put(sealed(1, ONE))
    assert not place.store.was_replaced(LOG, 1, "damaged")
    with place.store.open(LOG, 1) as before:
        assert place.store.replace(sealed(1, TWO), "damaged") == sealed(1, TWO).receipt
        assert before.read(0, len(ONE)) == ONE
    assert (place.held(1), place.kept()) == (TWO, {"damaged": ONE})
    assert place.store.was_replaced(LOG, 1, "damaged")
    assert not place.store.was_replaced(LOG, 1, "other")
    place.store.replace(sealed(1, TWO), "damaged")
    assert (place.held(1), place.kept()) == (TWO, {"damaged": ONE})


def test_a_name_that_other_bytes_have_is_not_given(place: Place) -> None:
    place.store.put(sealed(1, ONE))
    place.store.put(sealed(2, TWO))
    assert place.store.kept_as(LOG, 1, "kept") == "kept"
    place.store.replace(sealed(2, ONE), "kept")
    place.store.put(sealed(3, TWO))
    assert place.store.kept_as(LOG, 3, "kept") == "kept"  # the same bytes
    other = place.store.kept_as(LOG, 1, "kept")
    assert re.fullmatch(r"kept-[0-9a-f]{8}", other)
    place.store.replace(sealed(1, TWO), other)
    assert place.kept() == {"kept": TWO, other: ONE}


def test_replacing_never_loses_what_it_finds(place: Place) -> None:
    place.store.put(sealed(1, ONE))
    with pytest.raises(HistoryError, match="is there already"):
        place.store.replace(sealed(1, TWO), "")
    place.store.replace(sealed(1, TWO), "damaged")
    with pytest.raises(HistoryError, match=r"lost\+found/damaged exists"):
        place.store.replace(sealed(1, b"three"), "damaged")
    assert place.held(1) == TWO
    assert place.kept()["damaged"] == ONE


@pytest.mark.parametrize("kept", ["", "damaged"])
def test_replacing_nothing_is_putting(place: Place, kept: str) -> None:
    assert not place.store.was_replaced(LOG, 1, "")
    place.store.replace(sealed(1, ONE), kept)
    assert place.store.was_replaced(LOG, 1, "")
    assert (place.held(1), place.kept()) == (ONE, {})


def test_what_is_set_aside_is_gone_and_kept(place: Place) -> None:
    place.store.put(sealed(1, ONE))
    place.store.put(sealed(2, TWO))
    for _ in range(2):
        place.store.set_aside(LOG, 2, "beyond")
    assert (segment_numbers(place.store), place.kept()) == ([1], {"beyond": TWO})
    with pytest.raises(NotFoundError):
        place.store.open(LOG, 2)
    with pytest.raises(NotFoundError):
        place.store.set_aside(LOG, 2, "again")
    with pytest.raises(HistoryError, match=r"lost\+found/beyond exists"):
        place.store.set_aside(LOG, 1, "beyond")
    assert (place.held(1), place.kept()) == (ONE, {"beyond": TWO})
    place.store.put(sealed(2, TWO))
    place.store.set_aside(LOG, 2, "beyond")
    assert (segment_numbers(place.store), place.kept()) == ([1], {"beyond": TWO})


def test_only_what_is_proved_to_lie_elsewhere_is_released(place: Place) -> None:
    elsewhere = memory_place().store
    for number, data in ((1, ONE), (2, TWO)):
        place.store.put(sealed(number, data))
    wrong = elsewhere.put(sealed(1, TWO))
    with pytest.raises(HistoryError, match="other bytes"):
        place.store.release(LOG, 1, wrong)
    last = elsewhere.put(SealedSegment.of(2, partial(place.store.open, LOG, 2)))
    with pytest.raises(HistoryError, match="the last one"):
        place.store.release(LOG, 2, last)
    assert segment_numbers(place.store) == [1, 2]
    proof = memory_place().store.put(SealedSegment.of(1, partial(place.store.open, LOG, 1)))
    for _ in range(2):
        place.store.release(LOG, 1, proof)
    assert (segment_numbers(place.store), place.kept()) == ([2], {})


def test_what_is_not_there_is_an_error_of_its_own(place: Place) -> None:
    with pytest.raises(NotFoundError, match="segment 7 does not exist"):
        place.store.open(LOG, 7)
    for call in (place.store.segments, partial(place.store.open, number=1)):
        with pytest.raises(NotFoundError, match="no log 1"):
            call(1)
    assert place.store.segments(LOG) == []


def test_putting_at_once_from_many_threads(place: Place) -> None:
    """Everybody puts everything, and two different contents of one number: exactly one of these stays."""
    every = [sealed(number, bytes([number]) * 500) for number in range(1, 5)] + [sealed(5, ONE), sealed(5, TWO)]

    def put_all(first: int) -> list[bool]:
        done = []
        for one in every[first:] + every[:first]:
            try:
                done.append(place.store.put(one) == one.receipt)
            except HistoryError:
                done.append(False)
        return done[len(every) - first :] + done[: len(every) - first]

    with ThreadPoolExecutor(len(every)) as pool:
        found = list(pool.map(put_all, range(len(every))))
    winner = place.held(5)
    assert winner in {ONE, TWO}
    assert found == [[True] * 4 + [winner == ONE, winner == TWO]] * len(every)
    assert [place.held(number) for number in range(1, 5)] == [bytes([number]) * 500 for number in range(1, 5)]
    assert list(place.kept().values()) == [TWO if winner == ONE else ONE]


def test_what_has_no_room_is_refused_and_leaves_nothing(tmp_path: Path, free: list[int]) -> None:
    folder, memory = folder_place(tmp_path), memory_place(100)
    free[0] = 60_000
    for place in (folder, memory):
        assert place.store.room() in {60_000, 100}
        for call in (place.store.put, partial(place.store.replace, kept="kept")):
            with pytest.raises(UnavailableError, match="no room"):
                call(sealed(1, ONE))
        assert place.store.segments(LOG) == []
        assert place.kept() == {}
    assert memory_place().store.room() is None


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("kept", [None, "damaged"])
def test_a_stop_at_every_call_leaves_one_whole_segment(
    tmp_path: Path, faulty: FaultyCalls, kept: str | None, *, after_effect: bool
) -> None:
    """A folder, stopped at every system call of `put` and `replace`: the old or the new, and again ends well."""
    failures = 0
    for at in range(100):
        (tmp_path / str(at)).mkdir()
        place = folder_place(tmp_path / str(at), faulty)
        if kept:
            place.store.put(sealed(1, ONE))
        call = partial(place.store.replace, kept=kept) if kept else place.store.put
        faulty.arm(at, after_effect=after_effect)
        try:
            call(sealed(1, TWO))
        except UnavailableError:
            failures += 1
        is_past_the_end = faulty.fail_at is not None and faulty.fail_at >= len(faulty.made)
        faulty.fail_at = None
        if segment_numbers(place.store):
            assert place.held(1) in ({ONE, TWO} if kept else {TWO})
        else:
            assert not kept
        if kept and place.store.was_replaced(LOG, 1, kept):
            assert (place.held(1), place.kept()) == (TWO, {kept: ONE})
        call(sealed(1, TWO))
        assert (place.held(1), place.kept()) == (TWO, {kept: ONE} if kept else {})
        assert [p.name for p in (tmp_path / str(at) / "segments").iterdir()] == [SegmentFiles.name(1)]
        if is_past_the_end:
            break
    assert failures > 5


def test_a_segment_that_cannot_be_read_can_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder_place(tmp_path)
    place.store.put(sealed(1, ONE))
    real, bad = os.pread, (tmp_path / "segments" / SegmentFiles.name(1)).stat().st_ino

    def pread(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == bad:
            raise OSError(5, "Input/output error")
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(UnreadableError):
        place.store.put(sealed(1, TWO))
    place.store.replace(sealed(1, TWO), "damaged")
    assert place.held(1) == TWO
    assert place.kept() == {"damaged": ONE}


def test_what_is_in_the_place_of_a_segment_is_never_followed(tmp_path: Path) -> None:
    ArchiveFolder.prepare(tmp_path / "archive")
    folder = ArchiveFolder(tmp_path / "archive", bytes(16), "origin", "vkey")
    store, link = folder.segment_store(), folder.segments / SegmentFiles.name(1)
    (tmp_path / "aim").write_bytes(ONE)
    link.symlink_to(tmp_path / "aim")
    assert store.segments(LOG) == [(1, 0)]
    with pytest.raises(IntegrityError, match="link"):
        store.open(LOG, 1)
    with pytest.raises(HistoryError):
        store.put(sealed(1, ONE))
    assert (tmp_path / "aim").read_bytes() == ONE
    store.replace(sealed(1, TWO), "")
    assert not link.is_symlink()
    assert link.read_bytes() == TWO


@pytest.fixture(params=["memory", "memory, answers lost"])
def moved(request: pytest.FixtureRequest, small: SmallArchive) -> tuple[SmallArchive, ArchiveFolder, MemorySegments]:
    """An archive of five segments, the last one growing, and the same archive with its segments in memory only."""
    small.fill(14, segment_bytes=900)
    small.checkpoint()
    memory, store = MemorySegments(), small.folder.segment_store()
    for number in segment_numbers(store):
        memory.put(SealedSegment.of(number, partial(store.open, LOG, number)))
    held_in = Patient(FaultySegments(memory, 1)) if "lost" in request.param else memory
    return small, replace(small.folder, held_in=held_in), memory


def test_an_archive_in_memory_is_read_and_verified(
    moved: tuple[SmallArchive, ArchiveFolder, MemorySegments], tmp_path: Path
) -> None:
    small, folder, memory = moved
    there, here = LogReader(small.folder), LogReader(folder)
    wanted = [(p, there.read_body(p)) for p, _ in there.records()]
    there.close()
    small.folder.segments.rename(tmp_path / "segments")
    try:
        assert len(segment_numbers(memory)) > 3
        assert [(p, here.read_body(p)) for p, _ in here.records()] == wanted
        assert len(wanted) == 14
        verifier = Verifier(folder)
        assert list(verifier.findings()) == []
        assert verifier.summary.records == 14
        found = find_divergence(folder, None)
        assert (found.size, found.complaint) == (14, None)
    finally:
        (tmp_path / "segments").rename(small.folder.segments)


def test_an_archive_in_memory_is_repaired(moved: tuple[SmallArchive, ArchiveFolder, MemorySegments]) -> None:
    small, folder, memory = moved
    with memory.open(LOG, 2) as source:
        whole = source.read(0, source.size)
    damaged = bytes([*whole[:300], whole[300] ^ 1, *whole[301:]])
    memory.replace(sealed(2, damaged), "before the damage")
    memory.set_aside(LOG, 3, "lost")
    assert {f.segment for f in Verifier(folder).findings()} >= {2, 3}
    report = repair(folder, small.folder)
    assert [m.segment for m in report.repaired] == [2, 3]
    assert report.remaining == list(Verifier(folder).findings()) == []
    assert memory.lost_and_found[report.repaired[0].kept] == damaged
    (small.folder.path / "pending.json").unlink()


def test_a_folder_is_repaired_from_memory(moved: tuple[SmallArchive, ArchiveFolder, MemorySegments]) -> None:
    small, folder, _ = moved
    path = small.segments()[1]
    whole = path.read_bytes()
    path.write_bytes(bytes([*whole[:300], whole[300] ^ 1, *whole[301:]]))
    assert [m.segment for m in repair(small.folder, folder).repaired] == [2]
    assert path.read_bytes() == whole
    (small.folder.path / "pending.json").unlink()


def test_every_error_says_what_happened_and_no_bytes(place: Place) -> None:
    place.store.put(sealed(1, ONE))
    with pytest.raises(CofferError) as told:
        place.store.put(sealed(1, TWO))
    assert "refused" in told.value.hint()
