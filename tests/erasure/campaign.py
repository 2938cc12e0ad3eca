"""Every sequence of steps, by going from each to the next: what they begin with in common is done once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from tests.erasure.model import STEPS, Model
from tests.erasure.world import World, difference, finished


@dataclass(slots=True)
class Tally:
    """How many sequences were held against the model, in how many it was erased at their end, and what was wrong."""

    sequences: int = 0
    erased: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.sequences += other.sequences
        self.erased += other.erased
        self.wrong += other.wrong


def walk(folder: Path, prefix: tuple[str, ...], depth: int, tally: Tally, *, alone: bool = False) -> None:
    """Try the sequence `prefix`, and with `depth` steps left all that begin with it; `folder` is there and empty."""
    world, model = World.begin(folder / "begin"), Model()
    for name in prefix:
        world.step(name)
        model.step(name)
    _try(folder, world, model, prefix, 0 if alone else depth, tally)


def _try(folder: Path, world: World, model: Model, done: tuple[str, ...], left: int, tally: Tally) -> None:
    tally.sequences += bool(done)
    tally.erased += model.is_erased()
    wrong = difference(world, model)
    for name in STEPS if left else ():
        next_world, next_model = world.copy(folder / f"at{len(done)}"), model.copy()
        next_world.step(name)
        next_model.step(name)
        _try(folder, next_world, next_model, (*done, name), left - 1, tally)
    wrong = wrong or finished(world, model)
    if wrong:
        tally.wrong.append(f"{', '.join(done)}: {wrong}")
    world.close()


def prefixes(length: int) -> list[tuple[str, ...]]:
    """Every sequence of so many steps."""
    return list(itertools.product(STEPS, repeat=length))
