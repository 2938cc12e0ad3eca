"""Tiles and the history of checkpoints: what lies there after each checkpoint, and what is found when altered."""

import os
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.tree.checkpoint import Checkpoint, parse_checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import find_note, last_checkpoint, publish, read_entries, split
from coffer.archive.tree.leaves import Leaves
from coffer.archive.tree.proof import consistency, extends, includes, inclusion, root
from coffer.archive.tree.proof_bundle import Consistency, Inclusion
from coffer.archive.tree.tile_writer import TileWriter
from coffer.archive.tree.tiles import Tiles, tile_path
from coffer.keys.errors import FormatError, HistoryError, IntegrityError, NotFoundError, UnavailableError
from tests.archive.conftest import ORIGIN, FaultyCalls, SmallArchive, entry

LARGE = 70_000


def grow(archive: SmallArchive, *sizes: int, first: int = 0, segment_bytes: int = 1 << 30) -> None:
    """One opening; after each of `sizes` records in all, a checkpoint."""
    log = archive.writer(segment_bytes=segment_bytes)
    for size in sizes:
        log.append([entry(n + first, 0) for n in range(log.next_seq, size)])
        log.checkpoint(archive.sign)
    log.close()


def leaves_of(archive: SmallArchive) -> list[bytes]:
    """Leaf hashes, read by the other way into the log."""
    reader = LogReader(archive.folder)
    found = [leaf_hash(header.serialize()) for _, header in reader.records()]
    reader.close()
    return found


def expected(leaves: list[bytes]) -> dict[str, bytes]:
    """Every tile of a tree, by the text of C2SP tlog-tiles: 256 hashes a tile, partial ones at the right edge only."""
    files: dict[str, bytes] = {}
    row, level = leaves, 0
    while row:
        for number in range(-(-len(row) // 256)):
            part = row[256 * number : 256 * number + 256]
            files[tile_path(level, number, len(part))] = b"".join(part)
        whole = [row[at : at + 256] for at in range(0, len(row) - 255, 256)]
        row, level = [_pairwise(part) for part in whole], level + 1
    return files


def _pairwise(row: list[bytes]) -> bytes:
    while len(row) > 1:
        row = [sha256(b"\1" + row[at] + row[at + 1]).digest() for at in range(0, len(row), 2)]
    return row[0]


def tiles_of(archive: SmallArchive) -> dict[str, bytes]:
    """What lies under tiles/."""
    top = archive.folder.tiles
    return {str(p.relative_to(top)): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}


def whats(archive: SmallArchive) -> list[str]:
    return [finding.what for finding in archive.findings()]


@pytest.mark.parametrize(
    ("level", "number", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 67, 3, "tile/0/067.p/3"),
        (3, 999, 256, "tile/3/999"),
        (1, 1000, 256, "tile/1/x001/000"),
        (2, 1234067, 256, "tile/2/x001/x234/067"),
        (0, 1234067, 255, "tile/0/x001/x234/067.p/255"),
    ],
)
def test_paths_are_those_of_tlog_tiles(level: int, number: int, width: int, path: str) -> None:
    assert tile_path(level, number, width) == path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallArchive]:
    """70 000 records: the example of tlog-tiles. Read only."""
    archive = SmallArchive(tmp_path_factory.mktemp("large") / "archive")
    grow(archive, 60_000, LARGE, segment_bytes=3 << 20)
    yield archive
    archive.close()


def test_the_example_of_tlog_tiles(large: SmallArchive) -> None:
    """273 full tiles and a partial of 112; one full and a partial of 17; a partial of 1."""
    held = tiles_of(large)
    count = {level: sum(p.startswith(f"tile/{level}/") for p in held) for level in range(4)}
    assert count == {0: 274, 1: 2, 2: 1, 3: 0}
    assert {"tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} <= set(held)
    assert held == expected(leaves_of(large))


def test_proofs_are_made_from_the_tiles_alone(large: SmallArchive, tmp_path: Path) -> None:
    """From a copy without any segment; and from one without any tile, the same proofs."""
    leaves, signed = leaves_of(large), read_checkpoint(large.folder)
    assert signed is not None
    alone, none = SmallArchive(tmp_path / "alone"), Tiles(large.folder, LARGE, distrust=0)
    shutil.copytree(large.folder.tiles, alone.folder.tiles, dirs_exist_ok=True)
    tiles = Tiles(alone.folder, LARGE)
    for index in (0, 255, 256, 65_535, 65_536, 69_999):
        path = inclusion(index, LARGE, tiles.at)
        assert includes(leaves[index], index, LARGE, path, signed.root)
        assert len(path) <= 17
    tree = Frontier()
    for size in (1, 255, 256, 257, 60_000, 65_536, 69_999, LARGE):
        for leaf in leaves[tree.size : size]:
            tree.append(leaf)
        path = consistency(size, LARGE, tiles.at)
        assert extends(size, tree.root(), LARGE, signed.root, path)
        assert path == consistency(size, LARGE, none.at)


def test_every_flipped_tile_and_note_is_named(large: SmallArchive) -> None:
    """One flip in each file of a large tree, one file after the other."""
    files = sorted(tiles_of(large))
    for name in files[:: len(files) // 4] + files[-3:]:
        path = large.folder.tiles / name
        whole = path.read_bytes()
        at = len(whole) // 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert whats(large) == [
            f"the tile {name} is not what the log says; remove it: the next checkpoint makes it again from the log"
        ]
        path.write_bytes(whole)
    history = large.folder.checkpoint_history.read_bytes()
    notes = [note for _, note in split([history])]
    for at in (0, len(ORIGIN) + 1, len(ORIGIN) + 10, len(notes[0]) - 20, len(history) - 20):
        large.folder.checkpoint_history.write_bytes(history[:at] + bytes([history[at] ^ 4]) + history[at + 1 :])
        assert "history" in whats(large)[0]
    large.folder.checkpoint_history.write_bytes(history)
    assert whats(large) == []


def test_leaves_are_read_from_anywhere(large: SmallArchive) -> None:
    all_leaves, some = leaves_of(large), Leaves(large.folder)
    for begin, end in ((0, 3), (3, 9000), (69_990, LARGE), (20_000, 20_001), (20_001, 40_000), (100, 101)):
        assert some.take(begin, end) == all_leaves[begin:end]
    with pytest.raises(IntegrityError, match="record 70000 is missing"):
        some.take(69_999, LARGE + 1)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.sampled_from([1 << 30, 20_000]), st.booleans())
def test_after_every_checkpoint_exactly_its_tiles_are_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], segment_bytes: int, reopen: bool
) -> None:
    """However the records come, however often the log is opened between."""
    archive = SmallArchive(tmp_path_factory.mktemp("t") / "archive")
    sizes = [sum(steps[: n + 1]) for n in range(len(steps))]
    for size in sizes if reopen else [sizes[-1]]:
        grow(archive, *([size] if reopen else sizes), segment_bytes=segment_bytes)
        leaves = leaves_of(archive)
        assert tiles_of(archive) == expected(leaves)
    assert [n.checkpoint.size for n in read_entries(archive.folder)] == sizes
    for checkpoint, _ in read_entries(archive.folder):
        assert checkpoint.root == root(checkpoint.size, Tiles(archive.folder, sizes[-1]).at)
    archive.close()


def test_appending_touches_the_open_segment_only(small: SmallArchive, faulty: FaultyCalls) -> None:
    """What an append costs: one write, one sync. Tiles are the checkpoint's work."""
    log = small.writer(calls=faulty)
    log.append([entry(0)])
    faulty.made.clear()
    for n in range(1, 400):
        log.append([entry(n)])
    assert faulty.made == ["writev", "fdatasync"] * 399
    log.checkpoint(small.sign)


def test_missing_tiles_are_no_finding_and_are_made_again(small: SmallArchive) -> None:
    grow(small, 700)
    whole = tiles_of(small)
    for name in whole:
        (small.folder.tiles / name).unlink()
        assert whats(small) == []
    shutil.rmtree(small.folder.tiles)
    assert whats(small) == []
    assert Consistency.make(small.folder, find_note(small.folder, 700), small.folder.checkpoint.read_bytes())
    grow(small, 701)
    assert tiles_of(small) == expected(leaves_of(small))
    (small.folder.tiles / "tile/0/000").unlink()
    grow(small, 702)
    assert tiles_of(small) == expected(leaves_of(small))


def test_tiles_of_an_older_tree_are_brought_up(small: SmallArchive, tmp_path: Path) -> None:
    """As after a restore that brought back yesterday's tiles."""
    grow(small, 500)
    shutil.copytree(small.folder.tiles, tmp_path / "yesterday")
    grow(small, 1000)
    shutil.rmtree(small.folder.tiles)
    shutil.copytree(tmp_path / "yesterday", small.folder.tiles)
    assert whats(small) == []
    grow(small, 1001)
    assert tiles_of(small) == expected(leaves_of(small))


@pytest.mark.parametrize("name", ["tile/0/002.p/188", "tile/1/000.p/2", "tile/0/001"])
def test_a_cut_tile_is_found_and_made_again(small: SmallArchive, name: str) -> None:
    grow(small, 700)
    path = small.folder.tiles / name
    os.truncate(path, 33)
    assert [w.split(";")[0] for w in whats(small)] == [f"the tile {name} has the wrong length"]
    grow(small, 701)
    assert tiles_of(small) == expected(leaves_of(small))


def test_a_wrong_tile_at_the_edge_does_not_stop_signing(small: SmallArchive) -> None:
    """The log decides: it gives the signed root, so all tiles are made again from it."""
    grow(small, 700)
    path = small.folder.tiles / "tile/0/002.p/188"
    path.write_bytes(path.read_bytes()[::-1])
    assert len(whats(small)) == 1
    grow(small, 701)
    assert tiles_of(small) == expected(leaves_of(small))


def test_a_wrong_tile_in_the_middle_stays_a_finding_until_it_is_removed(small: SmallArchive) -> None:
    grow(small, 700)
    path = small.folder.tiles / "tile/0/000"
    path.write_bytes(path.read_bytes()[::-1])
    grow(small, 701)
    assert len(whats(small)) == 1
    assert "remove it" in whats(small)[0]
    path.unlink()
    grow(small, 702)


def test_proofs_do_without_a_wrong_tile(small: SmallArchive) -> None:
    grow(small, 300, 700)
    small.damaged = True
    for name in tiles_of(small):
        (small.folder.tiles / name).write_bytes(bytes(len(tiles_of(small)[name])))
    notes = [note for _, note in read_entries(small.folder)]
    made = Consistency.make(small.folder, *notes)
    assert [c.size for c in made.check(small.folder.vkey)] == [300, 700]
    reader = LogReader(small.folder)
    _, header = next(reader.records(299))
    reader.close()
    assert Inclusion.make(small.folder, header.serialize(), notes[0]).check(small.folder.vkey).size == 300


def test_a_damaged_log_makes_no_wrong_tile(small: SmallArchive) -> None:
    """A tile is missing, and so is what it could be made from: none is better than one that proves nothing."""
    log = small.writer(segment_bytes=20_000)
    log.append([entry(n, 0) for n in range(600)])
    log.checkpoint(small.sign)
    log.close()
    first = small.segments()[0]
    whole = first.read_bytes()
    first.write_bytes(whole[:120] + bytes([whole[120] ^ 1]) + whole[121:])  # in the middle of record 0's header
    (small.folder.tiles / "tile/0/000").unlink()
    assert [what for what in whats(small) if "tile" in what] == []  # a log that is wrong judges nobody
    grow(small, 601)
    assert "tile/0/000" not in tiles_of(small)
    first.write_bytes(whole)
    assert whats(small) == []
    grow(small, 602)
    assert "tile/0/000" in tiles_of(small)


@pytest.fixture
def forked(small: SmallArchive, tmp_path: Path) -> SmallArchive:
    """Signed at 4 records; 12 more in later segments; then others in place of all, whole in themselves."""
    small.damaged = True
    grow(small, 4, segment_bytes=1000)
    other = SmallArchive(tmp_path / "other")
    log = other.writer(segment_bytes=1000)
    log.append([entry(n if n < 2 else n + 100, 0) for n in range(16)])
    log.close()
    shutil.rmtree(small.folder.segments)
    shutil.copytree(other.folder.segments, small.folder.segments)
    return small


@pytest.mark.parametrize("tiles", ["as they were", "none", "the fork's"])
def test_two_histories_are_never_signed(forked: SmallArchive, tiles: str) -> None:
    """The last two segments are whole in themselves; whatever the tiles say, nothing is written on, nothing signed."""
    if tiles != "as they were":
        shutil.rmtree(forked.folder.tiles)
    if tiles == "the fork's":
        for name, data in expected(leaves_of(forked)[:4]).items():
            path = forked.folder.tiles / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    before = {name: data for name, data in forked.files().items() if name.startswith("checkpoints/")}
    with pytest.raises(HistoryError, match="the first 4 records are not those that were signed"):
        forked.writer(segment_bytes=1000)
    assert before == {name: data for name, data in forked.files().items() if name.startswith("checkpoints/")}


def test_what_is_signed_is_what_lies_on_the_disk(small: SmallArchive) -> None:
    """The writer's memory says one thing, the segment another: a disk that lies is not signed over."""
    small.damaged = True
    log = small.writer()
    log.append([entry(n) for n in range(5)])
    path = small.segments()[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:180] + bytes([whole[180] ^ 1]) + whole[181:])
    with pytest.raises(HistoryError, match="not those that this server has written"):
        log.checkpoint(small.sign)
    path.write_bytes(whole)
    assert log.checkpoint(small.sign) is not None
    small.damaged = False


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
        latest = read_checkpoint(small.folder)
        seen.append(([n.checkpoint.size for n in read_entries(small.folder)], latest.size if latest else 0))
        assert faulty.made[-1 if len(seen) > 1 else -3] != "writev"  # the history was synced

    for n in range(3):
        log.append([entry(n)])
        log.checkpoint(small.sign, remember)
    assert seen == [([1], 0), ([1, 2], 1), ([1, 2, 3], 2)]


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
    first = len(next(read_entries(small.folder)).note)
    latest = small.folder.checkpoint.read_bytes()
    for cut in range(first, len(whole)):
        small.folder.checkpoint_history.write_bytes(whole[:cut])
        small.folder.checkpoint.write_bytes(whole[:first])
        assert last_checkpoint(small.folder) == next(read_entries(small.folder)).checkpoint
        publish(small.folder, latest)
        assert small.folder.checkpoint_history.read_bytes() == whole


def test_an_append_with_holes_is_cut_before_the_next_note(small: SmallArchive) -> None:
    """Size and later sector were written before the power went, an earlier one was not; or the other way round."""
    grow(small, 3, 5)
    whole = small.folder.checkpoint_history.read_bytes()
    first = len(next(read_entries(small.folder)).note)
    latest = small.folder.checkpoint.read_bytes()
    small.folder.checkpoint.write_bytes(whole[:first])
    for sector in range(first + 1, len(whole)):
        for torn in (
            whole[:first] + bytes(sector - first) + whole[sector:],
            whole[:sector] + bytes(len(whole) - sector),
        ):
            small.folder.checkpoint_history.write_bytes(torn)
            assert [n.checkpoint.size for n in read_entries(small.folder)] == [3]
    for sector in (first + 1, first + len(ORIGIN) // 2, first + len(ORIGIN), len(whole) - 1):
        small.folder.checkpoint_history.write_bytes(whole[:first] + bytes(sector - first) + whole[sector:])
        assert whats(small) == []
        small.writer().close()
        publish(small.folder, latest)
        assert small.folder.checkpoint_history.read_bytes() == whole
        small.folder.checkpoint.write_bytes(whole[:first])
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
    assert told == [notes[0], notes[1], notes[1], notes[2]]
    assert small.folder.checkpoint.read_bytes() == notes[1]
    log.close()


def test_a_lost_history_is_found_and_begins_again_with_the_latest(small: SmallArchive) -> None:
    grow(small, 3, 5)
    small.folder.checkpoint_history.unlink()
    assert whats(small) == ["the history lacks the signed checkpoint over 5 records"]
    grow(small, 7)
    assert [n.checkpoint.size for n in read_entries(small.folder)] == [5, 7]


def test_a_latest_that_was_put_back_is_found(small: SmallArchive) -> None:
    grow(small, 3, 5, 7)
    notes = [note for _, note in read_entries(small.folder)]
    small.folder.checkpoint.write_bytes(notes[0])
    assert whats(small) == ["checkpoints/latest was put back: the history has one over 7 records"]
    small.folder.checkpoint.write_bytes(notes[1])  # where a stop between history and latest leaves it
    assert whats(small) == []
    small.folder.checkpoint.unlink()
    assert whats(small) == ["checkpoints/latest was put back: the history has one over 7 records"]
    small.folder.checkpoint.write_bytes(notes[2])


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
    first, last = (note for _, note in read_entries(small.folder))
    small.folder.checkpoint_history.write_bytes(first + lie + last)
    assert whats(small) == ["the history's checkpoint over 4 records does not fit the log"]
    small.folder.checkpoint_history.write_bytes(first + last)


def test_a_note_of_another_archive_proves_nothing_here(small: SmallArchive) -> None:
    """By the same key, under the same name, and its text names another log."""
    grow(small, 3)
    (told,) = read_entries(small.folder)
    other = small.sign(Checkpoint("archive.example/other", 3, told.checkpoint.root).serialize())
    with pytest.raises(FormatError, match="of another archive"):
        Consistency(other, (), other).check(small.folder.vkey)
    with pytest.raises(FormatError, match="of another archive"):
        publish(small.folder, other)


def test_notes_are_found_by_size(small: SmallArchive) -> None:
    grow(small, 3, 5, 7)
    assert find_note(small.folder, 5) == list(read_entries(small.folder))[1].note
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


def test_tiling_alone_refuses_what_the_log_is_not(small: SmallArchive) -> None:
    grow(small, 300)
    signed = read_checkpoint(small.folder)
    assert signed is not None
    lie = Checkpoint(ORIGIN, 200, sha256(b"").digest())
    with pytest.raises(HistoryError, match="the first 200 records"):
        TileWriter(small.folder).extend(lie, signed)


@pytest.mark.parametrize(
    "size", ["-15", "+5", "-0", "05", "\N{ARABIC-INDIC DIGIT THREE}", "1_0", " 1", "1" * 21, "1" * 5000, ""]
)
def test_a_number_of_records_is_ascii_digits(size: str) -> None:
    """C2SP tlog-checkpoint: a decimal number without sign and leading zeros."""
    text = f"origin/x\n{size}\n{'A' * 43}=\n".encode()
    with pytest.raises(FormatError):
        parse_checkpoint(text)
    assert parse_checkpoint(b"origin/x\n15\n" + b"A" * 43 + b"=\n").size == 15
