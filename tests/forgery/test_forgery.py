"""A bounded campaign of forgeries; `python -m tests.forgery` runs long ones and writes the table of the page."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.archive.repair import tail
from tests.forgery import table
from tests.forgery.accepted import LISTED
from tests.forgery.campaign import Tally, attack, run
from tests.forgery.commands import COMMANDS, SCRUB, in_this_process
from tests.forgery.kit import notes, tree
from tests.forgery.kit.segments import chained, leaves_of, parse, serialized
from tests.forgery.moves import MOVES, Attacked
from tests.forgery.moves.records import RecordAltered
from tests.forgery.state import State
from tests.forgery.world import World, make, mark_size
from tests.forgery.writing import write

SEQUENCES = int(os.environ.get("COFFER_FORGERIES", "60"))


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    """The archive and what the attacker kept, in memory where there is a file system for that."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield make(Path(folder))


@pytest.fixture
def world(made: World) -> Iterator[World]:
    """The same, with everything in its place again afterwards."""
    with in_this_process():
        yield made
    made.restore()


@pytest.fixture(scope="module")
def single(made: World) -> Tally:
    """Every single change once, held against every command."""
    tally = Tally()
    run(made, range(len(MOVES)), tally)
    return tally


def test_nothing_is_found_where_nothing_was_done(world: World) -> None:
    found = [each.name for each in (*COMMANDS, SCRUB) for anchor in each.anchors if each.finds(world, anchor)]
    assert found == []
    done = write(world, "mark")
    assert not done.is_refused
    assert done.faults == ()


def test_what_the_kit_makes_fit_is_what_was_written(world: World) -> None:
    at = Attacked(world)
    names = sorted(name for name in world.files if name.endswith(".seg"))
    log = [parse(world.files[name]) for name in names]
    assert {record.kind for segment in log for record in segment.records} >= {1, 2, 3, 4, 6, 9, 10, 256}
    again = serialized(chained(log, at.archive_id()))
    assert [data.rstrip(b"\0") for data in again] == [world.files[name].rstrip(b"\0") for name in names]
    leaves = leaves_of(log)
    for note in notes.split(world.files["checkpoints/history"]):
        size, root = notes.stated(note)
        assert tree.root(leaves[:size]) == root
    held = {name: data for name, data in world.files.items() if name.startswith("tiles/")}
    assert tree.tiles(leaves[: mark_size(world.mark)]) == held
    assert len(leaves) > mark_size(world.mark) > 0


def test_tiles_of_a_large_tree() -> None:
    leaves = [n.to_bytes(32, "big") for n in range(256 * 256 + 700)]
    made = tree.tiles(leaves)
    assert made["tiles/tile/0/000"] == b"".join(leaves[:256])
    assert len(made["tiles/tile/1/000"]) == 256 * 32
    assert len(made["tiles/tile/1/001.p/2"]) == 64
    assert len(made["tiles/tile/2/000.p/1"]) == 32
    assert made["tiles/tile/2/000.p/1"] == tree.root(leaves[: 256 * 256])


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.name)
def test_each_change_can_be_done_and_undone(world: World, move: object) -> None:
    before = State.of(world.live)
    at = attack(world, 1, [move])  # type: ignore[list-item]
    assert at.done == [move.name]  # type: ignore[attr-defined]
    world.restore()
    assert State.of(world.live) == before


def test_every_single_change_is_found_or_listed(single: Tally) -> None:
    assert single.holes == []
    assert single.cases > 0.9 * len(MOVES)
    assert 0 < single.refused < single.written


def test_the_page_says_what_this_run_saw(single: Tally) -> None:
    page = table.read(table.PAGE.read_text(encoding="utf-8"))
    assert table.contradictions(page, single) == []


def test_the_page_gives_the_list(single: Tally) -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    assert [each.what for each in LISTED if table.line(each) not in text] == []


def test_each_entry_of_the_list_is_needed(single: Tally) -> None:
    used = {what for row in single.rows.values() for what in row.listed}
    assert used == {each.what for each in LISTED}


def test_sequences_of_changes_are_found_or_listed(made: World) -> None:
    tally = Tally()
    first = 10_001 + 10 * (len(MOVES) // 10)
    run(made, (seed for seed in range(first, first + 2 * SEQUENCES) if seed % 10), tally, writes=0.3)
    assert tally.holes == []
    assert tally.cases > SEQUENCES
    assert tally.written > 0


def test_a_writer_that_took_any_tag_would_be_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of what is signed is one that can fail: without its rule, the writer signs over what was forged."""

    class NewestAltered(RecordAltered):
        def change(self, log, at, rng):  # type: ignore[no-untyped-def]
            *records, last = log[-1].records
            altered = last.with_header(40, b"\0\0\0\1")
            log[-1] = type(log[-1])(log[-1].header, (*records, altered), is_sealed=False)

    attack(world, 1, [NewestAltered("the newest record altered")])
    assert write(world, "mark").is_refused
    world.restore()
    attack(world, 1, [NewestAltered("the newest record altered")])
    monkeypatch.setattr(tail, "_require_tag", lambda *_: None)
    done = write(world, "mark")
    assert not done.is_refused
    assert any("not this archive's" in fault for fault in done.faults)
