"""Tiles: what lies there after each checkpoint, and what is found when altered."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coffer.archive.format.merkle import EMPTY_ROOT, Frontier
from coffer.archive.reader import LogReader
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import find_note, read_entries, split
from coffer.archive.tree.leaves import Leaves
from coffer.archive.tree.proof import consistency, extends, includes, inclusion, root
from coffer.archive.tree.proof_bundle import Consistency, Inclusion
from coffer.archive.tree.tile_writer import TileWriter
from coffer.archive.tree.tiles import Tiles, tile_path
from coffer.keys.errors import HistoryError, IntegrityError, UnavailableError
from tests.archive.conftest import ORIGIN, FaultyCalls, SmallArchive, entry
from tests.archive.trees import expected, grow, leaves_of, tiles_of, whats

LARGE = 70_000


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
    assert [n.checkpoint.size for n in read_entries(archive.folder)] == [0, *sizes]
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
    made = Consistency.make(small.folder, *notes[1:])
    assert [c.size for c in made.check(small.folder.vkey)] == [300, 700]
    reader = LogReader(small.folder)
    _, header = next(reader.records(299))
    reader.close()
    assert Inclusion.make(small.folder, header.serialize(), notes[1]).check(small.folder.vkey).size == 300


def test_a_damaged_log_makes_no_wrong_tile(small: SmallArchive) -> None:
    """A tile is missing, and so is what it could be made from: none is better than one that proves nothing."""
    log = small.writer(segment_bytes=20_000)
    for begin in range(0, 600, 50):
        log.append([entry(n, 0) for n in range(begin, begin + 50)])
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
    """The writer's memory says one thing, the segment another: a disk that lies is not signed over, nor written on."""
    small.damaged = True
    log = small.writer()
    log.append([entry(n) for n in range(5)])
    path = small.segments()[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:180] + bytes([whole[180] ^ 1]) + whole[181:])
    with pytest.raises(IntegrityError, match="the log on disk is no longer what was written there"):
        log.checkpoint(small.sign)
    path.write_bytes(whole)
    with pytest.raises(UnavailableError, match="nothing is stored: segment 1, offset 88"):
        log.checkpoint(small.sign)
    log.close()
    assert small.writer().checkpoint(small.sign) is not None
    small.damaged = False


def test_a_folder_at_the_latest_checkpoint_is_moved_away_as_told_and_the_same_writer_signs(small: SmallArchive) -> None:
    log = small.writer()
    log.append([entry(n) for n in range(5)])
    small.folder.checkpoint.rename(small.folder.path.parent / "latest")
    (small.folder.checkpoint / "in it").mkdir(parents=True)
    with pytest.raises(UnavailableError, match="latest stands where Coffer has to write latest") as refused:
        log.checkpoint(small.sign)
    subprocess.run(refused.value.hint().partition(" and wait")[0], shell=True, check=True)
    made = log.checkpoint(small.sign)
    assert made is not None
    assert read_checkpoint(small.folder) == made


def test_a_tile_writer_by_itself_does_not_sign_what_lies_elsewhere(small: SmallArchive) -> None:
    small.damaged = True
    log = small.writer()
    log.append([entry(n) for n in range(5)])
    memory = Checkpoint(ORIGIN, 5, sha256(b"memory").digest())
    with pytest.raises(HistoryError, match="not those that this server has written"):
        TileWriter(small.folder).extend(Checkpoint(ORIGIN, 0, EMPTY_ROOT), memory)


def test_tiling_alone_refuses_what_the_log_is_not(small: SmallArchive) -> None:
    grow(small, 300)
    signed = read_checkpoint(small.folder)
    assert signed is not None
    lie = Checkpoint(ORIGIN, 200, sha256(b"").digest())
    with pytest.raises(HistoryError, match="the first 200 records"):
        TileWriter(small.folder).extend(lie, signed)
