"""The history of checkpoints: what lies there after each checkpoint, and what is found when altered."""

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from coffer.archive.log import LogWriter
from coffer.archive.tree.checkpoint import Checkpoint, parse_checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import find_note, last_checkpoint, publish, read_entries
from coffer.archive.tree.proof_bundle import Consistency
from coffer.keys.errors import FormatError, HistoryError, NotFoundError, UnavailableError
from tests.archive.conftest import ORIGIN, FaultyCalls, SmallArchive, entry
from tests.archive.trees import expected, grow, leaves_of, tiles_of, whats


def test_a_smaller_or_other_checkpoint_is_not_published(small: SmallArchive) -> None:
    grow(small, 5, 9)
    older = Checkpoint(ORIGIN, 5, sha256(b"").digest())
    other = Checkpoint(ORIGIN, 9, sha256(b"").digest())
    before = small.files()
    for wrong in (older, other):
        with pytest.raises(HistoryError, match="contradicts"):
            publish(small.folder, small.sign(wrong.serialize()))
    assert small.files() == before


def test_a_note_is_in_the_history_before_anybody_is_told(small: SmallArchive, faulty: FaultyCalls) -> None:
    log = small.writer(calls=faulty)
    seen: list[tuple[list[int], int]] = []

    def remember(_: bytes) -> None:
        sizes = [n.checkpoint.size for n in read_entries(small.folder)]
        seen.append((sizes, read_checkpoint(small.folder).size))
        assert faulty.made[-1] != "writev"  # the history was synced

    for n in range(3):
        log.append([entry(n)])
        log.checkpoint(small.sign, remember)
    assert seen == [([0, 1], 0), ([0, 1, 2], 1), ([0, 1, 2, 3], 2)]


def test_a_stop_at_any_call_of_a_checkpoint_loses_no_note(tmp_path: Path) -> None:
    """Whatever was remembered or shown is in the history, and the next opening goes on."""
    for after_effect in (False, True):
        for at in range(60):
            archive, calls, told = SmallArchive(tmp_path / f"{at}-{after_effect}"), FaultyCalls(), list[bytes]()
            log = archive.writer(calls=calls)
            log.append([entry(n, 0) for n in range(300)])
            log.checkpoint(archive.sign, told.append)
            log.append([entry(n, 0) for n in range(300, 520)])
            calls.arm(at, after_effect=after_effect)
            try:
                log.checkpoint(archive.sign, told.append)
            except UnavailableError:
                pass
            else:
                break
            kept = [note for _, note in read_entries(archive.folder)]
            assert set(told) | {archive.folder.checkpoint.read_bytes()} <= set(kept)
            assert whats(archive) == []
            again = archive.writer()
            again.append([entry(520, 0)])
            again.checkpoint(archive.sign)
            assert tiles_of(archive) == expected(leaves_of(archive))
            archive.close()
        else:
            pytest.fail("a checkpoint makes more calls than were tried")


def test_a_torn_end_of_the_history_is_cut_before_the_next_note(small: SmallArchive) -> None:
    grow(small, 3, 5)
    whole = small.folder.checkpoint_history.read_bytes()
    *kept, latest = (note for _, note in read_entries(small.folder))
    first = len(b"".join(kept))
    for cut in range(first, len(whole)):
        small.folder.checkpoint_history.write_bytes(whole[:cut])
        small.folder.checkpoint.write_bytes(kept[-1])
        assert last_checkpoint(small.folder).size == 3
        publish(small.folder, latest)
        assert small.folder.checkpoint_history.read_bytes() == whole


def test_an_append_with_holes_is_cut_before_the_next_note(small: SmallArchive) -> None:
    """Size and later sector were written before the power went, an earlier one was not; or the other way round."""
    grow(small, 3, 5)
    whole = small.folder.checkpoint_history.read_bytes()
    *kept, latest = (note for _, note in read_entries(small.folder))
    first = len(b"".join(kept))
    small.folder.checkpoint.write_bytes(kept[-1])
    for sector in range(first + 1, len(whole)):
        for torn in (
            whole[:first] + bytes(sector - first) + whole[sector:],
            whole[:sector] + bytes(len(whole) - sector),
        ):
            small.folder.checkpoint_history.write_bytes(torn)
            assert [n.checkpoint.size for n in read_entries(small.folder)] == [0, 3]
    for sector in (first + 1, first + len(ORIGIN) // 2, first + len(ORIGIN), len(whole) - 1):
        small.folder.checkpoint_history.write_bytes(whole[:first] + bytes(sector - first) + whole[sector:])
        assert whats(small) == []
        small.writer().close()
        publish(small.folder, latest)
        assert small.folder.checkpoint_history.read_bytes() == whole
        small.folder.checkpoint.write_bytes(kept[-1])
    publish(small.folder, latest)


def test_a_hole_in_front_of_a_note_is_found(small: SmallArchive) -> None:
    """No stop leaves that: each note was stable before the next one."""
    grow(small, 3, 5, 7)
    whole = small.folder.checkpoint_history.read_bytes()
    first = len(next(read_entries(small.folder)).note)
    small.folder.checkpoint_history.write_bytes(whole[:first] + bytes(20) + whole[first + 20 :])
    assert "cannot be read from byte" in whats(small)[0]
    small.folder.checkpoint_history.write_bytes(whole)


def test_latest_is_never_two_notes_behind(small: SmallArchive) -> None:
    """Stopped between history and `latest`, and at the next checkpoint again."""
    told, log = list[bytes](), small.writer()

    def stop_at(place: int) -> Callable[[bytes], None]:
        def remember(note: bytes) -> None:
            told.append(note)
            if len(told) == place:
                raise UnavailableError("stopped")

        return remember

    for size, place in ((1, 0), (2, 2), (3, 4)):
        log.append([entry(size)])
        try:
            log.checkpoint(small.sign, stop_at(place))
        except UnavailableError:
            log.close()
            log = small.writer()
        assert whats(small) == []
    notes = [note for _, note in read_entries(small.folder)]
    assert told == [notes[1], notes[2], notes[2], notes[3]]
    assert small.folder.checkpoint.read_bytes() == notes[2]
    log.close()


def test_a_lost_history_is_found_and_not_written(small: SmallArchive) -> None:
    grow(small, 3, 5)
    whole = small.folder.checkpoint_history.read_bytes()
    for lost in (small.folder.checkpoint_history.unlink, lambda: small.folder.checkpoint_history.write_bytes(b"")):
        lost()
        assert whats(small) == ["the history lacks the signed checkpoint over 5 records"]
        with pytest.raises(HistoryError, match="checkpoints/history is missing"):
            small.writer()
        small.folder.checkpoint_history.write_bytes(whole)


def test_a_latest_that_was_put_back_is_found(small: SmallArchive) -> None:
    grow(small, 3, 5, 7)
    notes = [note for _, note in read_entries(small.folder)]
    for back in notes[:2]:
        small.folder.checkpoint.write_bytes(back)
        assert whats(small) == ["checkpoints/latest was put back: the history has one over 7 records"]
    small.folder.checkpoint.write_bytes(notes[2])  # where a stop between history and latest leaves it
    assert whats(small) == []
    small.folder.checkpoint.unlink()
    assert whats(small) == ["the signed checkpoint: checkpoints/latest is missing"]
    with pytest.raises(HistoryError, match="is missing"):
        small.writer()
    small.folder.checkpoint.write_bytes(notes[3])


def test_a_log_shorter_than_its_history_is_found_and_not_written(small: SmallArchive, tmp_path: Path) -> None:
    """Log and latest of yesterday, and only the history knows better."""
    small.damaged = True
    grow(small, 5)
    shutil.copytree(small.folder.path, tmp_path / "old")
    grow(small, 9)
    for part in ("segments/00000001.seg", "checkpoints/latest"):
        shutil.copy(tmp_path / "old" / part, small.folder.path / part)
    assert "the log ends here, but a signed checkpoint of the history covers 9 records" in whats(small)
    with pytest.raises(HistoryError, match="a signed checkpoint covers 9"):
        small.writer()


def reorder(notes: list[bytes]) -> list[bytes]:
    return [notes[1], notes[0], notes[2]]


def repeat(notes: list[bytes]) -> list[bytes]:
    return [notes[0], *notes]


def garble(notes: list[bytes]) -> list[bytes]:
    return [notes[0], b"nothing\n", *notes[1:]]


@pytest.mark.parametrize("change", [reorder, repeat, garble])
def test_an_altered_history_is_found(small: SmallArchive, change: Callable[[list[bytes]], list[bytes]]) -> None:
    grow(small, 3, 5, 7)
    whole = small.folder.checkpoint_history.read_bytes()
    small.folder.checkpoint_history.write_bytes(b"".join(change([note for _, note in read_entries(small.folder)])))
    assert any("history" in what for what in whats(small))
    small.folder.checkpoint_history.write_bytes(whole)


def test_a_signed_lie_in_the_history_is_found(small: SmallArchive) -> None:
    """Signed by the right key, and not true: as a fork that somebody was shown."""
    grow(small, 3, 5)
    lie = small.sign(Checkpoint(ORIGIN, 4, sha256(b"lie").digest()).serialize())
    *first, last = (note for _, note in read_entries(small.folder))
    small.folder.checkpoint_history.write_bytes(b"".join(first) + lie + last)
    assert whats(small) == ["the history's checkpoint over 4 records does not fit the log"]
    small.folder.checkpoint_history.write_bytes(b"".join(first) + last)


def test_a_note_of_another_archive_proves_nothing_here(small: SmallArchive) -> None:
    """By the same key, under the same name, and its text names another log."""
    grow(small, 3)
    _, told = read_entries(small.folder)
    other = small.sign(Checkpoint("archive.example/other", 3, told.checkpoint.root).serialize())
    with pytest.raises(FormatError, match="of another archive"):
        Consistency(other, (), other).check(small.folder.vkey)
    with pytest.raises(FormatError, match="of another archive"):
        publish(small.folder, other)


def test_notes_are_found_by_size(small: SmallArchive) -> None:
    grow(small, 3, 5, 7)
    assert find_note(small.folder, 5) == list(read_entries(small.folder))[2].note
    with pytest.raises(NotFoundError) as missed:
        find_note(small.folder, 6)
    assert missed.value.hint() == "the nearest ones cover 3, 5, 7 records"


def test_the_end_of_a_long_history_is_read_alone(small: SmallArchive) -> None:
    """Years of notes: the last one is found without reading the others."""
    grow(small, 1)
    note = small.folder.checkpoint.read_bytes()
    small.folder.checkpoint_history.write_bytes(note * 2000)
    assert last_checkpoint(small.folder) == read_checkpoint(small.folder)
    small.folder.checkpoint_history.write_bytes(b"x\n" * 50 + note * 2000)
    assert last_checkpoint(small.folder) == read_checkpoint(small.folder)
    with pytest.raises(FormatError):
        list(read_entries(small.folder))
    small.folder.checkpoint_history.write_bytes(note)


@pytest.mark.timeout(30)
def test_checkpoints_go_on_beside_appends(small: SmallArchive) -> None:
    """Signing waits for no append and holds none up: the note is of a moment between two."""
    log: LogWriter = small.writer()
    log.append([entry(0)])

    def sign(text: bytes) -> bytes:
        log.append([entry(log.next_seq)])  # would wait for ever if signing held the log
        return small.sign(text)

    assert [made.size if (made := log.checkpoint(sign)) else 0 for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    "size", ["-15", "+5", "-0", "05", "\N{ARABIC-INDIC DIGIT THREE}", "1_0", " 1", "1" * 21, "1" * 5000, ""]
)
def test_a_number_of_records_is_ascii_digits(size: str) -> None:
    """C2SP tlog-checkpoint: a decimal number without sign and leading zeros."""
    text = f"origin/x\n{size}\n{'A' * 43}=\n".encode()
    with pytest.raises(FormatError):
        parse_checkpoint(text)
    assert parse_checkpoint(b"origin/x\n15\n" + b"A" * 43 + b"=\n").size == 15
