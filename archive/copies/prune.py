"""Remove old snapshots, and later the pieces that no snapshot needs any more.

Rule: never at the same time as a backup (`archive.copies.turns`). A piece goes in two steps, a day apart at least: one
prune writes down that nothing needs it, a later one looks again and removes it. Lists go before what they list.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coffer.archive.copies.retention import Keep, kept
from coffer.archive.copies.shelf import Shelf, Unusable
from coffer.archive.copies.snapshot import Snapshot
from coffer.archive.copies.target import Stored
from coffer.archive.copies.turns import Turn
from coffer.keys.errors import InputError, IntegrityError, UnavailableError

__all__ = ["GRACE_MS", "Plan", "Pruned", "plan", "prune"]

GRACE_MS: Final = 20 * 3600 * 1000
_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """The ids of the snapshots that stay and of those that go, oldest first."""

    stay: tuple[str, ...]
    go: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done: the snapshots that were removed, the pieces and their bytes that were, and how many pieces wait to
    be looked at again."""

    snapshots: tuple[str, ...]
    pieces: int
    bytes: int
    waiting: int


def plan(snapshots: Sequence[Snapshot | Unusable], keep: Keep, minimum: int) -> Plan:
    """What a prune would do. Raises IntegrityError if a list cannot be read, because nobody knows what it needs;
    InputError if fewer than `minimum` whole snapshots would stay."""
    unusable = [each for each in snapshots if isinstance(each, Unusable)]
    if unusable:
        raise IntegrityError(
            f"snapshot {unusable[0].id} cannot be read, so nobody knows which pieces it needs: {unusable[0].why}",
            hint="find out why; then remove its file at the target, under snapshots/, and run the command again",
        )
    usable = [each for each in snapshots if isinstance(each, Snapshot)]
    stay = kept(usable, keep)
    go = tuple(each.id for each in usable if each.id not in stay)
    whole = sum(each.id in stay and not each.findings for each in usable)
    if go and whole < minimum:
        raise InputError(
            f"{whole} whole snapshots would stay, fewer than the {minimum} that are configured: nothing was removed",
            hint="keep more, or lower [backup] minimum",
        )
    return Plan(tuple(each.id for each in usable if each.id in stay), go)


def prune(shelf: Shelf, keep: Keep, minimum: int, turn: Turn, *, grace_ms: int = GRACE_MS) -> Pruned:
    """Remove what `plan` says, and the pieces that were written down long enough ago; durable on return.

    Raises as `plan`; UnavailableError if the target keeps what is to be removed.
    """
    planned = plan(shelf.snapshots(), keep, minimum)
    for each in planned.go:
        turn.keep()
        shelf.target.remove(shelf.snapshot_name(each))
    needed = {piece for each in shelf.snapshots() for blob in _require(each).blobs() for piece in blob.pieces}
    spare = {piece: found for piece, found in shelf.pieces().items() if piece not in needed}
    old: dict[str, tuple[int, set[bytes]]] = {}
    young: dict[str, tuple[int, set[bytes]]] = {}
    for name, (at, pieces) in _notes(shelf).items():
        (old if turn.began_ms - at >= grace_ms else young)[name] = at, pieces
    ripe = {p: spare[p] for at, pieces in old.values() for p in pieces if p in spare and spare[p].stored_ms <= at}
    _remove(shelf, ripe, turn)
    for name in old:
        shelf.target.remove(name)
    known = {piece for _, pieces in young.values() for piece in pieces}
    fresh = sorted(piece.hex() for piece in spare.keys() - ripe.keys() - known)
    if fresh:
        shelf.target.put(shelf.under(f"spare/{turn.own}.json"), json.dumps(fresh).encode())
    removed = sum(each.size for each in ripe.values())
    return Pruned(planned.go, len(ripe), removed, len(spare) - len(ripe))


def _require(each: Snapshot | Unusable) -> Snapshot:
    if isinstance(each, Unusable):
        raise UnavailableError(f"snapshot {each.id} can no longer be read: {each.why}", hint="run the command again")
    return each


def _remove(shelf: Shelf, pieces: dict[bytes, Stored], turn: Turn) -> None:
    for number, each in enumerate(pieces.values()):
        if number % _BATCH == 0:
            turn.keep()
        shelf.target.remove(each.name)


def _notes(shelf: Shelf) -> dict[str, tuple[int, set[bytes]]]:
    """What earlier prunes wrote down: by object, when, and which pieces. What cannot be read counts for nothing."""
    found = {}
    for each in shelf.target.list(shelf.under("spare/")):
        try:
            pieces = {bytes.fromhex(digits) for digits in json.loads(shelf.target.get(each.name))}
        except (ValueError, TypeError, RecursionError, IntegrityError):
            pieces = set()
        found[each.name] = (each.stored_ms, pieces)
    return found
