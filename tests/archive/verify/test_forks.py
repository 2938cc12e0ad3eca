"""An archive and its twin have the same beginning and the same key, and went on apart: parts of one in the other."""

import shutil
from pathlib import Path

import pytest

from coffer.archive.format.record import record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.log import LogWriter
from coffer.archive.repair.divergence import find_divergence
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint
from coffer.keys.errors import HistoryError
from tests.archive.conftest import SmallArchive, append, entry

_PER_SEGMENT = 4
_FULL = SEGMENT_HEADER.size + _PER_SEGMENT * record_size(40)


class Twins:
    """Two archives of `segments` segments that are the same before segment `begin`; both are signed at their end, and
    went on for a few records since."""

    def __init__(self, path: Path, segments: int, begin: int, *, since: int = 2) -> None:
        path.mkdir(exist_ok=True)
        self.one, self.other = SmallArchive(path / "one"), SmallArchive(path / "other")
        self.one.damaged = self.other.damaged = True
        for archive, first in ((self.one, 0), (self.other, 1000)):
            log = archive.writer(segment_bytes=_FULL)
            shared = (begin - 1) * _PER_SEGMENT
            for n in range(segments * _PER_SEGMENT):
                log.append([entry(n if n < shared else first + n)])
            log.checkpoint(archive.sign)
            log.append([entry(first + 500 + n) for n in range(since)])
            log.close()

    @property
    def witness(self) -> Checkpoint:
        """What the keyring of the first one remembers."""
        seen = read_checkpoint(self.one.folder)
        assert seen is not None
        return seen

    def swap(self, *numbers: int) -> None:
        """Put these segments of the other one in the place of the first one's; without any: the whole folder."""
        mine, theirs = self.one.folder, self.other.folder
        if not numbers:
            shutil.rmtree(mine.segments)
            shutil.copytree(theirs.segments, mine.segments)
        for number in numbers:
            shutil.copyfile(theirs.segment_files.path(number), mine.segment_files.path(number))

    def require_refused(self, witness: Checkpoint | None = None) -> None:
        """Opening for writing is refused, changes nothing, and `coffer recover show` tells why."""
        folder, witness = ArchiveFolder.open(self.one.folder.path), witness or self.witness
        before = self.one.files()
        with pytest.raises(HistoryError) as refused:
            LogWriter(
                folder,
                sign=self.one.signer.sign_statement,
                now_ms=self.one.now_ms,
                segment_bytes=_FULL,
                remembered=witness,
            )
        assert "coffer recover show" in refused.value.hint()
        log = LogWriter(
            folder,
            sign=self.one.signer.sign_statement,
            now_ms=self.one.now_ms,
            segment_bytes=_FULL,
            remembered=witness,
            may_refuse=True,
        )
        assert log.refusal is not None
        log.close()
        assert isinstance(find_divergence(folder, witness).complaint, HistoryError)
        assert self.one.files() == before


@pytest.mark.parametrize(("segments", "begin"), [(n, at) for n in range(3, 13) for at in range(1, n + 1)])
def test_the_segments_of_a_twin_are_refused_wherever_the_two_part(tmp_path: Path, segments: int, begin: int) -> None:
    twins = Twins(tmp_path, segments, begin)
    twins.swap()
    twins.require_refused()


@pytest.mark.parametrize("since", [0, 1, 9, 30])
def test_it_is_refused_however_much_was_stored_since_the_last_checkpoint(tmp_path: Path, since: int) -> None:
    twins = Twins(tmp_path, 5, 2, since=since)
    twins.swap()
    twins.require_refused()


@pytest.mark.parametrize("number", range(2, 9))
def test_one_segment_of_a_twin_is_refused(tmp_path: Path, number: int) -> None:
    twins = Twins(tmp_path, 8, 2)
    twins.swap(number)
    twins.require_refused()


@pytest.mark.parametrize("number", range(1, 9))
def test_one_segment_in_another_ones_place_is_refused(tmp_path: Path, number: int) -> None:
    twins = Twins(tmp_path, 8, 2)
    following = twins.one.folder.segment_files.path(number % 8 + 1).read_bytes()
    twins.one.folder.segment_files.path(number).write_bytes(following)
    twins.one.damaged = True
    with pytest.raises(Exception, match="belongs to another place or archive"):
        twins.one.writer(segment_bytes=_FULL)


def test_segments_of_a_twin_up_to_some_place_are_refused(tmp_path: Path) -> None:
    for last in range(2, 8):
        twins = Twins(tmp_path / str(last), 8, 2)
        twins.swap(*range(2, last + 1))
        twins.require_refused()


def test_an_older_checkpoint_of_the_twin_is_held_against_the_log_too(tmp_path: Path) -> None:
    """The keyring remembers what is true; the twin's checkpoint that was put back is older, and of another history."""
    twins = Twins(tmp_path, 6, 2)
    witness = twins.witness
    other = SmallArchive(tmp_path / "third")
    other.damaged = True
    log = other.writer(segment_bytes=_FULL)
    for n in range(10):
        log.append([entry(n if n < _PER_SEGMENT else 1000 + n)])
    log.checkpoint(other.sign)
    log.close()
    shutil.copyfile(other.folder.checkpoint, twins.one.folder.checkpoint)
    twins.one.folder.checkpoint_history.unlink()
    twins.require_refused(witness)


def test_a_damaged_header_behind_a_good_one_is_left_to_a_verification(tmp_path: Path) -> None:
    """Damage is no fork: an archive with one bad record is not taken out of service for it."""
    twins = Twins(tmp_path, 6, 3)
    for number in range(1, 7):
        path = twins.one.folder.segment_files.path(number)
        whole = path.read_bytes()
        for place in (0, 1, 3):
            data = bytearray(whole)
            data[SEGMENT_HEADER.size + place * record_size(40) + 50] ^= 1
            path.write_bytes(data)
            log = LogWriter(
                twins.one.folder,
                sign=twins.one.signer.sign_statement,
                now_ms=twins.one.now_ms,
                segment_bytes=_FULL,
                remembered=twins.witness,
            )
            assert log.next_seq == 6 * _PER_SEGMENT + 2
            log.close()
            assert twins.one.findings()
        path.write_bytes(whole)


def test_it_goes_on_where_nothing_was_swapped(tmp_path: Path) -> None:
    for segments in range(1, 13):
        twins = Twins(tmp_path / str(segments), segments, 1)
        log = LogWriter(
            twins.one.folder,
            sign=twins.one.signer.sign_statement,
            now_ms=twins.one.now_ms,
            segment_bytes=_FULL,
            remembered=twins.witness,
        )
        assert append(log, [entry(1)])[0].seq == segments * _PER_SEGMENT + 2
        assert log.checkpoint(twins.one.sign) is not None
        log.close()
        assert twins.one.findings() == []
