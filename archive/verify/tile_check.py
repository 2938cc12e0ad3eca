"""Check what is kept beside the log for auditors: the history of checkpoints and the tiles, both without any key.

Rule: tiles are checked against a signed root and against each other, which costs one hash per record. Only if that
fails is the log read again, to find which file is wrong. A missing tile is not a finding: the next checkpoint makes it.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from coffer.archive.format.merkle import Frontier
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, endorsed_checkpoints, open_checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import read_entries
from coffer.archive.tree.key_history import read_key_history
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

_MOST_REPORTED = 100  # findings of one kind: if thousands were planted, the first ones show it
_REMEDY = "remove it: the next checkpoint makes it again from the log"


def check(folder: ArchiveFolder, signed: Checkpoint | None, since: int = 0) -> Iterator[Finding]:
    """What is wrong with the history of checkpoints and the tiles, from record `since` on.

    `signed` is the archive's last checkpoint, read earlier: a concurrent writer may be ahead of it, never behind.
    Damage to the log itself, which a verification reports, is reported again only if it prevents this check.
    """
    checkpoints: list[Checkpoint] = []
    yield from history(folder, signed, since, checkpoints)
    keyed: list[Checkpoint] = []
    with suppress(IntegrityError):  # a verification reports keys that cannot be read
        keyed = [made for made in endorsed_checkpoints(read_key_history(folder)) if made.size >= since]
    try:
        if signed is not None:
            yield from _tiles(folder, signed, since)
        yield from _untrue(folder, checkpoints, "the history's checkpoint")
        yield from _untrue(folder, keyed, "the endorsement of a signing key")
    except IntegrityError as error:
        yield _beside(f"tiles and history cannot be checked to the end: {error}")


def history(folder: ArchiveFolder, signed: Checkpoint | None, since: int, good: list[Checkpoint]) -> Iterator[Finding]:
    """Check order and signatures; adds to `good` the checkpoints whose root is still to be checked."""
    before, earlier, wrong, is_noted = -1, -1, 0, signed is None
    try:
        for checkpoint, note in read_entries(folder):
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
                if wrong == _MOST_REPORTED:
                    yield _beside("the rest of the history is not looked at; take it from a backup")
                    return
    except IntegrityError as error:
        yield _beside(str(error))
        return
    if signed is not None and not is_noted:
        yield _beside(f"the history lacks the signed checkpoint over {signed.size} records")
    with suppress(IntegrityError):  # a verification reports a checkpoint that cannot be read
        latest = read_checkpoint(folder)  # again, after the history: a writer appends a checkpoint there first
        if latest.size < earlier:
            yield _beside(f"checkpoints/latest was put back: the history has one over {before} records")


def _untrue(folder: ArchiveFolder, checkpoints: Sequence[Checkpoint], what: str) -> Iterator[Finding]:
    """The checkpoints that neither tiles nor log confirm."""
    view = Tiles(folder, max((c.size for c in checkpoints), default=0))
    doubtful = sorted((c for c in checkpoints if root(c.size, view.at) != c.root), key=lambda c: c.size)
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
                yield _beside(f"the tile {_name(view, level, number)} {complaint}; {_REMEDY}")
            is_whole = view.width(level, number) == WIDTH
            if is_whole and top(view.tile(level, number)) != view.at(HEIGHT * (level + 1), number):
                doubtful |= {(level, number), (level + 1, number // WIDTH)}
    if root(signed.size, view.at) != signed.root:
        doubtful |= {(level, view.numbers(level)[-1]) for level in view.levels()}
    truth = Tiles(folder, signed.size, distrust=0)
    if doubtful and root(signed.size, truth.at) != signed.root:
        return  # the log itself is not what was signed, which a verification reports: it cannot vouch for tiles
    for level, number in sorted(doubtful):
        held = view.stored(level, number)
        if held != truth.tile(level, number)[: len(held)]:
            yield _beside(f"the tile {_name(view, level, number)} is not what the log says; {_REMEDY}")


def _beside(what: str) -> Finding:
    return Finding(0, 0, None, what)


def _name(view: Tiles, level: int, number: int) -> str:
    return tile_path(level, number, view.width(level, number))


def _complaint(view: Tiles, level: int, number: int) -> str | None:
    """What is wrong with a tile's file, judged without reading it; None if nothing is."""
    try:
        size = opening.size(view.path(level, number))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IntegrityError:
        return "is a link, or another thing than a file"
    return None if size == view.width(level, number) * HASH_BYTES else "has the wrong length"
