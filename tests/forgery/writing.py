"""Open the live archive for writing, store an object and sign: refused, or nothing forged is under a genuine signature.

A group's tag and a checkpoint both bind every record before them. So once the writer has appended or signed anything,
each record of the log must be a genuine one in its place, or one that this writer has just made.
"""

from __future__ import annotations

from dataclasses import dataclass

from coffer.keys.errors import CofferError
from coffer.server.engine.opening import open_writer
from tests.forgery.kit import notes, tree
from tests.forgery.kit.segments import HEADER, RECORD, leaves_of, parse, sealed_header
from tests.forgery.moves.attacked import segment_files
from tests.forgery.state import keyring_note
from tests.forgery.world import World, config_at, mark_size, put

OBJECT, KEY_CREATED, REPAIR = 1, 2, 8


@dataclass(frozen=True, slots=True)
class Written:
    """Whether it was refused, and if it was not, what was signed that should not have been (a sentence each)."""

    is_refused: bool
    faults: tuple[str, ...] = ()


def write(world: World, anchor: str) -> Written:
    """Store one object in the live archive, as `coffer put` does, and sign a checkpoint."""
    is_announced = (world.live / "pending.json").is_file()
    known, there = _notes(world), {leaf for _, leaf in _records(world).values()}
    try:
        with open_writer(config_at(world.config(anchor))) as engine:
            statuses = put(engine, (9, 1, "stored afterwards"))
            engine.sign_checkpoint()
        is_refused = statuses != [0]
    except CofferError:
        is_refused = True
    return Written(is_refused, tuple(_faults(world, known, there, anchor, is_announced=is_announced)))


def _notes(world: World) -> set[bytes]:
    """Every checkpoint in the folder, in any of the three places."""
    found = {keyring_note(world.live) or b""}
    for name in ("latest", "history"):
        path = world.live / "checkpoints" / name
        if path.is_file():
            found |= set(notes.split(path.read_bytes()))
    return found - {b""}


def _faults(world: World, known: set[bytes], there: set[bytes], anchor: str, *, is_announced: bool) -> list[str]:
    genuine, signed = genuine_leaves(world), _notes(world) - known
    records = _records(world)
    if not signed and not {leaf for _, leaf in records.values()} - there:
        return []
    # A damaged header leaves a hole: what was signed of that record is what the footer knows, the genuine one.
    size = max(records, default=-1) + 1
    leaves = [records[n][1] if n in records else genuine[n] if n < len(genuine) else b"" for n in range(size)]
    pairs = enumerate(zip(leaves, genuine, strict=False))
    common = next((n for n, (mine, theirs) in pairs if mine != theirs), min(len(leaves), len(genuine)))
    found = []
    if any(leaf in there for leaf in leaves[common:]):
        found.append(f"the key signed over records from {common} on that are not this archive's")
    if anchor == "mark" and common < mark_size(world.mark):
        found.append(f"the key signed over {common} genuine records, and the mark names {mark_size(world.mark)}")
    for size, root in map(notes.stated, signed):
        if root != tree.root(leaves[:size]):
            found.append(f"the key signed another tree of {size} records than the log's")
    kinds = {records[n][0] for n in range(common, len(leaves)) if n in records} - {OBJECT, KEY_CREATED}
    kinds -= {REPAIR} if is_announced else set()  # `accepted`: an offline repair that was not made
    return [*found, *(f"a record of kind {kind} was made of what the folder says" for kind in sorted(kinds))]


def _records(world: World) -> dict[int, tuple[int, bytes]]:
    """Kind and leaf hash of every record whose header is sound, by its number."""
    found = {}
    for path in segment_files(world.live):
        data = path.read_bytes()
        at = data.find(b"CFRC", HEADER)
        while at >= 0:
            header = data[at : at + RECORD]
            if len(header) == RECORD and sealed_header(header) == header:
                found[int.from_bytes(header[8:16], "big")] = (int.from_bytes(header[6:8], "big"), tree.leaf(header))
            at = data.find(b"CFRC", at + 4)
    return found


def genuine_leaves(world: World) -> list[bytes]:
    """The leaf hashes of the archive's own log, as nobody has changed it."""
    return leaves_of(parse(world.files[name]) for name in sorted(world.files) if name.endswith(".seg"))
