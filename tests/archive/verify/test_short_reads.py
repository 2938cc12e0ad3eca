"""Every reading of the log, shortened or refused once, at every place: nothing is cut, left out or called altered."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.archive.format.merkle import Frontier
from coffer.archive.format.record import record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.repair.divergence import find_divergence
from coffer.archive.repair.repair import repair
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.leaves import Leaves
from coffer.archive.verify.verify import Options, Verifier, VerifyLevel
from coffer.keys.errors import UnavailableError
from tests.archive.conftest import SIGNER, SmallArchive, body_of, entry

_FULL = SEGMENT_HEADER.size + 4 * record_size(40)
_RECORDS = 15


class Fault:
    """Makes the n-th `os.pread` from now answer short, or fail; counts all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = os.pread
        self.at, self.count = -1, 0
        self.shortened: Callable[[int], int] | None = None
        monkeypatch.setattr(os, "pread", self._pread)

    def arm(self, at: int, shortened: Callable[[int], int] | None) -> None:
        """`shortened` gives how many bytes of so many come; None: Input/output error. `at` -1: nothing happens."""
        self.at, self.count, self.shortened = at, 0, shortened

    @property
    def came(self) -> bool:
        return 0 <= self.at < self.count

    def _pread(self, fd: int, length: int, offset: int) -> bytes:
        self.count += 1
        if self.count - 1 != self.at:
            return self._real(fd, length, offset)
        if self.shortened is None:
            raise OSError(5, "Input/output error")
        return self._real(fd, self.shortened(length), offset)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    return Fault(monkeypatch)


def _half(length: int) -> int:
    return length // 2


def _all_but_one(length: int) -> int:
    return max(length - 1, 1)


def _one(_: int) -> int:
    return 1


_SHORT = [_half, _all_but_one, _one]


@pytest.fixture
def filled(small: SmallArchive) -> SmallArchive:
    """Four segments, a large record among small ones, signed, and an unsigned tail of three groups."""
    log = small.writer(segment_bytes=_FULL)
    for n in range(0, 10, 2):
        log.append([entry(n), entry(n + 1)])
    log.checkpoint(small.sign)
    log.append([entry(10, 20_000)])
    log.append([entry(11), entry(12)])
    log.append([entry(13), entry(14)])
    log.close()
    return small


def _open(folder: ArchiveFolder) -> object:
    log = LogWriter(folder, sign=SIGNER.sign_statement, now_ms=lambda: 1, segment_bytes=_FULL)
    log.close()
    return log.next_seq, log.cut_bytes


def _records(folder: ArchiveFolder) -> object:
    reader = LogReader(folder)
    try:
        return [(position.seq, reader.read_body(position)) for position, _ in reader.records(3)]
    finally:
        reader.close()


def _leaves(folder: ArchiveFolder) -> object:
    tree = Frontier()
    Leaves(folder).grow(tree, _RECORDS)
    return tree.root()


def _history(folder: ArchiveFolder) -> object:
    found = find_divergence(folder, None)
    return found.size, found.complaint


_READERS: list[Callable[[ArchiveFolder], object]] = [_open, _records, _leaves, _history]


def _sweep(fault: Fault, shortened: Callable[[int], int] | None, go: Callable[[], None]) -> int:
    """Do it with the fault at every reading that it makes."""
    for at in range(2000):
        fault.arm(at, shortened)
        go()
        if not fault.came:
            return at
    raise AssertionError("it never ends")


@pytest.mark.parametrize("read", _READERS)
@pytest.mark.parametrize("shortened", _SHORT)
def test_a_short_answer_changes_nothing(
    filled: SmallArchive, fault: Fault, read: Callable[[ArchiveFolder], object], shortened: Callable[[int], int]
) -> None:
    fault.arm(-1, None)
    right, before = read(filled.folder), filled.files()

    def go() -> None:
        assert read(filled.folder) == right

    assert _sweep(fault, shortened, go) > 5
    fault.arm(-1, None)
    assert filled.files() == before


@pytest.mark.parametrize("level", [VerifyLevel.HEADERS, VerifyLevel.BODIES])
@pytest.mark.parametrize("shortened", _SHORT)
def test_a_short_answer_is_no_finding(
    filled: SmallArchive, fault: Fault, level: VerifyLevel, shortened: Callable[[int], int]
) -> None:
    def go() -> None:
        assert list(Verifier(filled.folder, Options(level)).findings()) == []

    assert _sweep(fault, shortened, go) > 5


@pytest.mark.parametrize("read", _READERS[:3])
def test_what_the_medium_refuses_is_told_as_that(
    filled: SmallArchive, fault: Fault, read: Callable[[ArchiveFolder], object]
) -> None:
    fault.arm(-1, None)
    right, before = read(filled.folder), filled.files()
    refused: list[str] = []

    def go() -> None:
        try:
            assert read(filled.folder) == right
        except UnavailableError as error:
            refused.append(str(error))

    assert _sweep(fault, None, go) - len(refused) <= 2  # a read ahead that the next one repeats may fail unseen
    assert all("cannot be read: Input/output error" in told for told in refused)
    fault.arm(-1, None)
    assert filled.files() == before


def test_a_repair_copies_whole_records(filled: SmallArchive, fault: Fault, tmp_path: Path) -> None:
    fault.arm(-1, None)
    copy = tmp_path / "copy"
    shutil.copytree(filled.folder.path, copy)
    path = filled.folder.segment_files.path(2)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[SEGMENT_HEADER.size + 170] ^= 1

    def go() -> None:
        path.write_bytes(damaged)
        for kept in filled.folder.lost_and_found.iterdir():
            kept.unlink()
        report = repair(filled.folder, ArchiveFolder.open(copy))
        assert [m.records for m in report.repaired] == [(4,)]
        assert report.remaining == []
        assert path.read_bytes() == whole

    assert _sweep(fault, _half, go) > 20
    fault.arm(-1, None)
    (filled.folder.path / "pending.json").unlink(missing_ok=True)


def test_what_is_stored_is_what_was_given(filled: SmallArchive, fault: Fault) -> None:
    """The fixture itself: bodies come back."""
    fault.arm(-1, None)
    reader = LogReader(filled.folder)
    assert [reader.read_body(p) for p, _ in reader.records()] == [
        body_of(n, 20_000 if n == 10 else 40) for n in range(_RECORDS)
    ]
    reader.close()
