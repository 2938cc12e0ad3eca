"""Log, checkpoint and keyring that tell different histories: refused, shown, and two ways out that leave a trace."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.archive.events.repairs import LossAccepted, SegmentsTaken
from coffer.archive.format.record import record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.log import LogWriter
from coffer.archive.repair.deferred_events import read_deferred
from coffer.archive.repair.divergence import accept_loss, find_divergence, take_from
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import (
    Checkpoint,
    open_checkpoint,
    read_checkpoint,
    read_note,
    remembered_checkpoint,
)
from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import HistoryError, InputError, IntegrityError, UnavailableError
from tests.archive.conftest import FaultyCalls, SmallArchive, entry

ONE = record_size(40)
THREE = SEGMENT_HEADER.size + 3 * ONE


class Remembered(SmallArchive):
    """A small archive with a memory outside its log, as the keyring is one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.note: bytes | None = read_note(self.folder)

    @property
    def witness(self) -> Checkpoint:
        return remembered_checkpoint(self.note, self.folder)

    def remember(self, note: bytes) -> None:
        self.note = note

    def sign(self, note: bytes) -> bytes:
        signed = super().sign(note)
        self.remember(signed)
        return signed

    def open(self, *, may_refuse: bool = False) -> LogWriter:
        log = LogWriter(
            self.folder,
            sign=self.signer.sign_statement,
            now_ms=self.now_ms,
            segment_bytes=THREE,
            remembered=self.witness,
            may_refuse=may_refuse,
        )
        self._writers.append(log)
        return log

    def grow(self, count: int, first: int) -> None:
        """Append, sign, close."""
        log = self.open()
        for number in range(first, first + count):
            log.append([entry(number)])
        log.checkpoint(self.sign)
        log.close()


@pytest.fixture
def kept(tmp_path: Path) -> Remembered:
    """Eight records; a copy of that state in `old`; then seven more, and a copy in `new`."""
    archive = Remembered(tmp_path / "archive")
    archive.grow(8, 0)
    shutil.copytree(archive.folder.path, tmp_path / "old")
    archive.grow(7, 8)
    shutil.copytree(archive.folder.path, tmp_path / "new")
    return archive


def put_back(archive: Remembered, copy: Path, *parts: str) -> None:
    """Replace parts of the archive folder by those of a copy."""
    for part in parts:
        shutil.rmtree(archive.folder.path / part)
        shutil.copytree(copy / part, archive.folder.path / part)


def roll_back(archive: Remembered, tmp_path: Path) -> None:
    """Log and checkpoint of yesterday: only the keyring knows better."""
    put_back(archive, tmp_path / "old", "segments", "checkpoints")


def roll_back_log_alone(archive: Remembered, tmp_path: Path) -> None:
    put_back(archive, tmp_path / "old", "segments")


def lose_last_segment(archive: Remembered, tmp_path: Path) -> None:
    archive.segments()[-1].unlink()


def lose_middle_segment(archive: Remembered, tmp_path: Path) -> None:
    archive.segments()[2].unlink()


def cut_the_end(archive: Remembered, tmp_path: Path) -> None:
    path = archive.segments()[-1]
    os.truncate(path, path.stat().st_size - ONE - 20)


def fork(archive: Remembered, tmp_path: Path) -> None:
    """Yesterday's state went on with other records, signed by the right key."""
    other = Remembered(tmp_path / "fork")
    other.grow(8, 0)
    other.grow(7, 100)
    put_back(archive, tmp_path / "fork", "segments", "checkpoints", "tiles")
    other.close()


DIVERGED = [roll_back, roll_back_log_alone, lose_last_segment, lose_middle_segment, cut_the_end, fork]
LEFT = {
    "roll_back": 8,
    "roll_back_log_alone": 8,
    "lose_last_segment": 12,
    "lose_middle_segment": 6,
    "cut_the_end": 13,
    "fork": 15,
}
Divergence = Callable[[Remembered, Path], None]


@pytest.mark.parametrize("diverge", DIVERGED)
def test_it_refuses_to_write_and_changes_nothing(kept: Remembered, tmp_path: Path, diverge: Divergence) -> None:
    diverge(kept, tmp_path)
    before = kept.files()
    with pytest.raises(HistoryError) as refused:
        kept.open()
    assert "coffer recover show" in refused.value.hint()
    log = kept.open(may_refuse=True)
    assert log.refusal is not None
    for attempt in (lambda: log.append([entry(1)]), log.require_writable, lambda: log.checkpoint(kept.sign)):
        with pytest.raises(UnavailableError, match="nothing is stored"):
            attempt()
    log.close()
    assert kept.files() == before


@pytest.mark.parametrize("diverge", DIVERGED)
def test_verification_finds_it_with_the_keyrings_memory(kept: Remembered, tmp_path: Path, diverge: Divergence) -> None:
    diverge(kept, tmp_path)
    assert list(Verifier(kept.folder, remembered=kept.witness).findings())
    alone = list(Verifier(kept.folder).findings())
    assert bool(alone) == (diverge not in {roll_back, fork})  # these two are whole in themselves


@pytest.mark.parametrize("diverge", DIVERGED)
def test_it_is_shown(kept: Remembered, tmp_path: Path, diverge: Divergence) -> None:
    diverge(kept, tmp_path)
    before = kept.files()
    history = find_divergence(kept.folder, kept.witness)
    assert isinstance(history.complaint, HistoryError)
    assert (history.size, history.signed_records) == (LEFT[diverge.__name__], 15)
    assert (history.left_over > 0) == (diverge in {lose_middle_segment, cut_the_end})
    assert kept.files() == before


@pytest.mark.parametrize("diverge", DIVERGED)
def test_the_missing_records_come_from_a_copy(kept: Remembered, tmp_path: Path, diverge: Divergence) -> None:
    whole = {p.name: p.read_bytes() for p in kept.folder.segments.iterdir()}
    diverge(kept, tmp_path)
    found = {p.name: p.read_bytes() for p in kept.folder.segments.iterdir()}
    history = find_divergence(kept.folder, kept.witness)
    assert take_from(kept.folder, history, ArchiveFolder.open(tmp_path / "new"), kept.signer, kept.remember)
    assert {p.name: p.read_bytes() for p in kept.folder.segments.iterdir()} == whole
    assert kept.open().next_seq == 15
    assert list(Verifier(kept.folder, remembered=kept.witness).findings()) == []
    aside = [p.read_bytes() for p in kept.folder.lost_and_found.iterdir()]
    assert all(data in aside for name, data in found.items() if data != whole.get(name))
    (deed,) = read_deferred(kept.folder)
    assert deed.was_done(kept.folder)
    assert isinstance(deed.event, SegmentsTaken)
    assert (deed.event.found.records, deed.event.left.records) == (LEFT[diverge.__name__], 15)


@pytest.mark.parametrize("diverge", DIVERGED)
def test_the_loss_is_accepted(kept: Remembered, tmp_path: Path, diverge: Divergence) -> None:
    diverge(kept, tmp_path)
    old_note = kept.folder.checkpoint.read_bytes()
    history = find_divergence(kept.folder, kept.witness)
    accept_loss(kept.folder, history, kept.signer, kept.remember)
    (deed,) = read_deferred(kept.folder)
    assert deed.was_done(kept.folder)
    assert isinstance(deed.event, LossAccepted)
    assert deed.event.remembered is not None
    assert deed.event.remembered.records == 15
    assert old_note in [p.read_bytes() for p in kept.folder.lost_and_found.iterdir()]
    log = kept.open()
    assert log.next_seq == history.size
    log.append([entry(200)])
    log.checkpoint(kept.sign)
    log.close()
    assert list(Verifier(kept.folder, remembered=kept.witness).findings()) == []


def test_a_keyring_of_yesterday_is_refused(kept: Remembered, tmp_path: Path) -> None:
    kept.remember((tmp_path / "old" / "checkpoints" / "latest").read_bytes())
    with pytest.raises(HistoryError, match="keyring is older than the log: it remembers 8 records, and 15 are signed"):
        kept.open()
    kept.note = None
    with pytest.raises(HistoryError, match="remembers no checkpoint"):
        kept.witness  # noqa: B018
    kept.remember((tmp_path / "old" / "checkpoints" / "latest").read_bytes())
    history = find_divergence(kept.folder, kept.witness)
    assert (history.size, history.left_over) == (15, 0)
    accept_loss(kept.folder, history, kept.signer, kept.remember)
    assert kept.open().next_seq == 15


def test_a_stop_between_keyring_and_checkpoint_is_no_divergence(kept: Remembered, tmp_path: Path) -> None:
    put_back(kept, tmp_path / "old", "checkpoints")
    log = kept.open()
    assert log.signed_size == 8
    log.checkpoint(kept.sign)
    signed = read_checkpoint(kept.folder)
    assert signed is not None
    assert signed.size == 15


def test_two_roots_of_one_size_are_refused(kept: Remembered) -> None:
    kept.remember(kept.signer.sign_note(kept.folder.origin, Checkpoint(kept.folder.origin, 15, bytes(32)).serialize()))
    with pytest.raises(HistoryError, match="differ about the first 15 records"):
        kept.open()


def test_copies_that_do_not_prove_it(kept: Remembered, tmp_path: Path) -> None:
    lose_last_segment(kept, tmp_path)
    before = kept.files()
    history = find_divergence(kept.folder, kept.witness)
    with pytest.raises(InputError, match="covers 8 records, but 15 were signed here"):
        take_from(kept.folder, history, ArchiveFolder.open(tmp_path / "old"), kept.signer, kept.remember)
    fork_of = tmp_path / "forked"
    shutil.copytree(tmp_path / "new", fork_of)
    other = Remembered(tmp_path / "other")
    other.grow(15, 100)
    for part in ("segments", "checkpoints"):
        shutil.rmtree(fork_of / part)
        shutil.copytree(other.folder.path / part, fork_of / part)
    with pytest.raises(IntegrityError, match="does not prove"):
        take_from(kept.folder, history, ArchiveFolder.open(fork_of), kept.signer, kept.remember)
    damaged = ArchiveFolder.open(tmp_path / "new")
    data = bytearray(damaged.segment_files.path(1).read_bytes())
    data[300] ^= 1
    damaged.segment_files.path(1).write_bytes(data)
    with pytest.raises(IntegrityError, match="does not prove"):
        take_from(kept.folder, history, damaged, kept.signer, kept.remember)
    assert kept.files() == before
    other.close()


@pytest.mark.parametrize("way", ["accept", "take"])
@pytest.mark.parametrize("after_effect", [False, True])
def test_a_stop_at_every_call(kept: Remembered, tmp_path: Path, way: str, *, after_effect: bool) -> None:
    """After a failure anywhere, nothing is lost, no deed is told that was not done, and the same command goes on."""
    fork(kept, tmp_path)
    start, note = tmp_path / "start", kept.note
    shutil.copytree(kept.folder.path, start)
    copy = ArchiveFolder.open(tmp_path / "new")

    def go(calls: FaultyCalls) -> None:
        history = find_divergence(kept.folder, kept.witness)
        if way == "accept":
            accept_loss(kept.folder, history, kept.signer, kept.remember, calls)
        else:
            take_from(kept.folder, history, copy, kept.signer, kept.remember, calls=calls)

    failures = 0
    for at in range(200):
        shutil.rmtree(kept.folder.path)
        shutil.copytree(start, kept.folder.path)
        kept.note = note
        calls = FaultyCalls()
        calls.arm(at, after_effect=after_effect)
        try:
            go(calls)
        except UnavailableError:
            failures += 1
        if at >= len(calls.made):
            break
        for deed in read_deferred(kept.folder):
            if deed.was_done(kept.folder):
                assert open_checkpoint(kept.folder.checkpoint.read_bytes(), kept.folder).size == 15
        if find_divergence(kept.folder, kept.witness).complaint is not None:
            go(FaultyCalls())
        assert kept.open().next_seq == 15
        assert list(Verifier(kept.folder, remembered=kept.witness).findings()) == []
        assert any(deed.was_done(kept.folder) for deed in read_deferred(kept.folder))
    assert failures > 10
