"""Cases of one to four moves on a living archive, each found by a command, or listed as one that nothing can find.

A case that left the archive as it was (`state`) is none. A single move is held against every command with every anchor;
of a sequence, commands are asked until one finds it. Of each case that is neither, the seed and the moves are kept.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

import lmdb

from tests.forgery.accepted import reasons
from tests.forgery.commands import (
    AUDIT,
    COMMANDS,
    FIND,
    FIRST,
    ROWS,
    SCRUB,
    SHOW,
    VERIFY,
    Command,
    in_this_process,
)  # fmt: skip
from tests.forgery.moves import MOVES, Attacked, CannotError, Move
from tests.forgery.state import State
from tests.forgery.world import World
from tests.forgery.writing import write

WRITING = "put"
SEQUENCES = "two to four of them in sequence"
# Most changes are found by the first of these; all are asked before a case counts as not found.
_ORDER = (FIRST, ROWS, AUDIT, VERIFY[2], VERIFY[1], SHOW, FIND)


@dataclass(slots=True)
class Row:
    """One kind of case: how many, found by which command with which anchor in how many of how many tried, and why
    nothing can find some of them."""

    cases: int = 0
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    listed: Counter[str] = field(default_factory=Counter)

    def add(self, other: Row) -> None:
        self.cases += other.cases
        for mine, theirs in ((self.tried, other.tried), (self.found, other.found), (self.listed, other.listed)):
            mine.update(theirs)  # type: ignore[arg-type]


@dataclass(slots=True)
class Tally:
    """What a campaign has seen. `holes` are the cases that break the promise: seed, moves, and what is wrong."""

    rows: dict[str, Row] = field(default_factory=dict)
    unchanged: int = 0
    written: int = 0
    refused: int = 0
    holes: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(row.cases for row in self.rows.values())

    def row(self, name: str) -> Row:
        return self.rows.setdefault(name, Row())

    def add(self, other: Tally) -> None:
        for name, row in other.rows.items():
            self.row(name).add(row)
        self.unchanged += other.unchanged
        self.written += other.written
        self.refused += other.refused
        self.holes += other.holes


def run(world: World, seeds: Iterable[int], tally: Tally, *, full: float = 1.0, writes: float = 1.0) -> None:
    """Do the case of each seed. `full`: the share of single moves that all commands are asked about; `writes`: that of
    cases that a writer is opened on."""
    before = State.of(world.live)
    with in_this_process():
        for seed in seeds:
            try:
                _one(world, before, seed, tally, full, writes)
            finally:
                world.restore()


def moves_of(seed: int) -> tuple[Move, ...]:
    """The moves of a case. The first seeds are every single move in turn; after them one case in ten is one move."""
    if seed < len(MOVES) or seed % 10 == 0:
        return (MOVES[seed % len(MOVES) if seed < len(MOVES) else seed // 10 % len(MOVES)],)
    rng = Random(f"{seed}/moves")
    return tuple(rng.choice(MOVES) for _ in range(rng.randint(2, 4)))


def attack(world: World, seed: int, moves: Sequence[Move]) -> Attacked:
    """Do the moves that can be done, in order. What an earlier one destroyed may leave a later one half done."""
    at, rng = Attacked(world), Random(f"{seed}/chances")
    for move in moves:
        try:
            move.apply(at, rng)
            at.done.append(move.name)
        except CannotError:
            continue
        except (OSError, ValueError, LookupError, struct.error, lmdb.Error) as error:
            if not at.done:
                raise  # on an untouched archive each move can be done
            at.done.append(f"{move.name} ({type(error).__name__})")
    return at


def _one(world: World, before: State, seed: int, tally: Tally, full: float, writes: float) -> None:
    moves, rng = moves_of(seed), Random(f"{seed}/asked")
    at = attack(world, seed, moves)
    where = f"seed {seed}: {', then '.join(at.done)}"
    row = Row()
    try:
        everything = len(moves) == 1 and rng.random() < full
        is_found = _asked(world, row, everything=everything)
        listed: list[str] = []
        if not is_found:
            after = State.of(world.live, damaged=at.damaged)
            differing = before.differing(after)
            if not differing:
                tally.unchanged += 1
                return
            is_found = _ask(world, row, SCRUB, "mark")
        if not is_found:
            listed = reasons(world, before, after)
            row.listed.update(listed)
        is_refused = False
        if everything or rng.random() < writes or not (is_found or listed):
            done = write(world, "mark")
            is_refused = done.is_refused
            tally.written += 1
            tally.refused += is_refused
            row.tried[WRITING, "mark"] += 1
            row.found[WRITING, "mark"] += is_refused
            tally.holes += [f"{where}: {fault}" for fault in done.faults]
        if not (is_found or is_refused or listed):
            parts = sorted({name.split(":")[0] for name in differing})
            tally.holes.append(f"{where}: no command finds it ({', '.join(parts)})")
    except Exception as error:  # noqa: BLE001  a command that ends by a defect is a hole as well
        tally.holes.append(f"{where}: {type(error).__name__}: {str(error)[:300]}")
    row.cases = 1
    tally.row(moves[0].name if len(moves) == 1 else SEQUENCES).add(row)


def _asked(world: World, row: Row, *, everything: bool) -> bool:
    """Whether a command with the mark finds it; asks all of them about `everything`, else until one does."""
    if everything:
        found = [(anchor, _ask(world, row, each, anchor)) for each in COMMANDS for anchor in each.anchors]
        return any(is_found for anchor, is_found in found if anchor == "mark")
    return any(_ask(world, row, each, "mark") for each in _ORDER)


def _ask(world: World, row: Row, command: Command, anchor: str) -> bool:
    is_found = command.finds(world, anchor)
    if is_found or not command.is_part:
        row.tried[command.name, anchor] += 1
        row.found[command.name, anchor] += is_found
    return is_found
