"""Check what is kept beside the log for auditors: the history of checkpoints and the tiles, both without any key.

Rule: tiles are held against a signed root and against each other, which costs one hash a record. Only where that fails
is the log read again, to say which file is wrong. One that is missing is no finding: the next checkpoint makes it.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from coffer.archive.format.merkle import Frontier
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, endorsed, open_checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import read_notes
from coffer.archive.tree.key_history import read_succession
from coffer.archive.tree.leaves import Leaves
from coffer.archive.tree.proof import root
from coffer.archive.tree.tiles import (
    HASH_BYTES,
    HEIGHT,
    WIDTH,
    Tiles,
    tile_path,
    top,
)
from coffer.archive.verify.report import Finding
from coffer.keys.disk import opening
from coffer.keys.errors import IntegrityError

_MOST_TOLD = 100  # of one kind: who planted thousands is found by the first
_WAY_OUT = "remove it: the next checkpoint makes it again from the log"


def check(folder: ArchiveFolder, signed: Checkpoint | None, since: int = 0) -> Iterator[Finding]:
    """What is wrong with the history of checkpoints and the tiles, from record `since` on.

    `signed` is the archive's last checkpoint, read before: a writer beside us is then ahead of it, never behind. Of
    damage to the log itself, which a verification tells, only what keeps this check from its work is told again.
    """
    noted: list[Checkpoint] = []
    yield from _history(folder, signed, since, noted)
    keyed: list[Checkpoint] = []
    with suppress(IntegrityError):  # that they cannot be read, a verification says
        keyed = [made for made in endorsed(read_succession(folder)) if made.size >= since]
    try:
        if signed is not None:
            yield from _tiles(folder, signed, since)
        yield from _untrue(folder, noted, "the history's checkpoint")
        yield from _untrue(folder, keyed, "the endorsement of a signing key")
    except IntegrityError as error:
        yield _beside(f"tiles and history cannot be checked to the end: {error}")


def _history(folder: ArchiveFolder, signed: Checkpoint | None, since: int, good: list[Checkpoint]) -> Iterator[Finding]:
    """Check order and signatures; fills `good` with the checkpoints whose root is still to be checked."""
    before, earlier, wrong, is_noted = -1, -1, 0, signed is None
    try:
        for checkpoint, note in read_notes(folder):
            complaint = None
            if checkpoint.size <= before:
                complaint = f"the history's checkpoint over {checkpoint.size} records is out of order"
            before, earlier = checkpoint.size, before
            is_noted |= checkpoint == signed
            if checkpoint.size >= since:
                try:
                    good.append(open_checkpoint(note, folder))
                except IntegrityError as error:
                    complaint = f"the history's checkpoint over {checkpoint.size} records: {error}"
            if complaint is not None:
                yield _beside(complaint)
                wrong += 1
                if wrong == _MOST_TOLD:
                    yield _beside("the rest of the history is not looked at; take it from a backup")
                    return
    except IntegrityError as error:
        yield _beside(str(error))
        return
    if signed is not None and not is_noted:
        yield _beside(f"the history lacks the signed checkpoint over {signed.size} records")
    with suppress(IntegrityError):  # that it cannot be read, a verification says
        latest = read_checkpoint(folder)  # again, behind the history: a writer enters a checkpoint there first
        if earlier >= 0 and (latest is None or latest.size < earlier):
            yield _beside(f"checkpoints/latest was put back: the history has one over {before} records")


def _untrue(folder: ArchiveFolder, noted: Sequence[Checkpoint], what: str) -> Iterator[Finding]:
    """Those that neither tiles nor log bear out."""
    view = Tiles(folder, max((c.size for c in noted), default=0))
    doubtful = sorted((c for c in noted if root(c.size, view.at) != c.root), key=lambda c: c.size)
    leaves, tree = Leaves(folder), Frontier()
    for checkpoint in doubtful:
        leaves.grow(tree, checkpoint.size)
        if tree.root() != checkpoint.root:
            yield _beside(f"{what} over {checkpoint.size} records does not fit the log")


def _tiles(folder: ArchiveFolder, signed: Checkpoint, since: int) -> Iterator[Finding]:
    view = Tiles(folder, signed.size)
    doubtful = set[tuple[int, int]]()
    for level in view.levels():
        for number in view.numbers(level, since):
            complaint = _complaint(view, level, number)
            if complaint is not None:
                yield _beside(f"the tile {_name(view, level, number)} {complaint}; {_WAY_OUT}")
            is_whole = view.width(level, number) == WIDTH
            if is_whole and top(view.tile(level, number)) != view.at(HEIGHT * (level + 1), number):
                doubtful |= {(level, number), (level + 1, number // WIDTH)}
    if root(signed.size, view.at) != signed.root:
        doubtful |= {(level, view.numbers(level)[-1]) for level in view.levels()}
    truth = Tiles(folder, signed.size, distrust=0)
    if doubtful and root(signed.size, truth.at) != signed.root:
        return  # the log itself is not what was signed: it cannot judge its tiles, and a verification says so
    for level, number in sorted(doubtful):
        held = view.stored(level, number)
        if held != truth.tile(level, number)[: len(held)]:
            yield _beside(f"the tile {_name(view, level, number)} is not what the log says; {_WAY_OUT}")


def _beside(what: str) -> Finding:
    return Finding(0, 0, None, what)


def _name(view: Tiles, level: int, number: int) -> str:
    return tile_path(level, number, view.width(level, number))


def _complaint(view: Tiles, level: int, number: int) -> str | None:
    """What a look at a tile's file, unread, tells."""
    try:
        size = opening.size(view.path(level, number))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IntegrityError:
        return "is a link, or another thing than a file"
    return None if size == view.width(level, number) * HASH_BYTES else "has the wrong length"
