"""What no command can find, each with its reason, and exactly which differences it explains.

A case is listed if each difference between the archive and what is there now is explained by one of these. Whoever adds
one takes a promise back: it stands in docs/integrity.md. Whoever makes Coffer find one of them removes it here: a test
fails while an entry explains no case any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from tests.forgery.kit import keyring_rows, notes
from tests.forgery.kit.segments import Segment, leaves_of, parse
from tests.forgery.state import State
from tests.forgery.world import World, mark_size

Items = Mapping[str, bytes]
_HISTORY: Final = "checkpoints/history"
_NEVER_READ: Final = ("lost+found/", "spool/", "segments/.", "scrub/place.json")


@dataclass(frozen=True, slots=True)
class Case:
    """What was, what is, and the names of what differs."""

    world: World
    before: Items
    after: Items
    differing: frozenset[str]

    def below(self, prefix: str) -> set[str]:
        """What differs below a name."""
        return {name for name in self.differing if name.startswith(prefix)}


@dataclass(frozen=True, slots=True)
class Listed:
    """`explains` returns the names of the differences that are of this kind."""

    what: str
    reason: str
    explains: Callable[[Case], set[str]]


def reasons(world: World, before: State, after: State) -> list[str]:
    """What was done, in the words of the list, if it explains every difference; otherwise nothing."""
    differing = before.differing(after)
    case = Case(world, before.items, after.items, frozenset(differing))
    explained = {each.what: each.explains(case) for each in LISTED}
    if differing - set().union(*explained.values()):
        return []
    return [what for what, names in explained.items() if names]


def _never_read(case: Case) -> set[str]:
    return {name for name in case.differing if name.startswith(_NEVER_READ)}


def _older_tiles(case: Case) -> set[str]:
    """Tiles that are gone, and those of fewer records of this very log."""
    leaves = b"".join(leaves_of(_log(case.before)))
    level = "tiles/tile/0/000.p/"
    return {
        name
        for name in case.below("tiles/")
        if name not in case.after
        or (name.startswith(level) and case.after[name] == leaves[: 32 * int(name.removeprefix(level))])
    }


def _older_index(case: Case) -> set[str]:
    mine = _part(case.after, "index:")
    states = [_part(_copy(case.world, name).items, "index:") for name in ("then", "late")]
    is_empty = not any(name.split(":")[1] in "1234" for name in mine)
    return case.below("index") if mine in states or is_empty else set()


def _part(items: Items, prefix: str) -> dict[str, bytes]:
    return {name: value for name, value in items.items() if name.startswith(prefix)}


@cache
def _copies(base: str) -> dict[str, State]:
    return {}


def _copy(world: World, name: str) -> State:
    """The state of a copy, read once."""
    known = _copies(str(world.base))
    if name not in known:
        known[name] = State.of(world.copy(name))
    return known[name]


def _newest_buckets(case: Case) -> set[str]:
    """Buckets that are, with their sums, what they were after the last checkpoint and before the end."""
    rows = keyring_rows.buckets(_rows(case.after))
    late, now = keyring_rows.buckets(_rows(_copy(case.world, "late").items)), keyring_rows.buckets(_rows(case.before))
    if any(rows[number] not in (late[number], now[number]) for number in range(256)):
        return set()
    return case.below("keyring:")


def _rows(items: Items) -> dict[bytes, bytes]:
    return {bytes.fromhex(name[8:]): value for name, value in items.items() if name.startswith("keyring:")}


def _log(items: Items) -> list[Segment]:
    return [parse(items[name]) for name in sorted(items) if name.startswith("segments/0")]


def _is_same_but(mine: list[Segment], theirs: list[Segment], signed: int, *, tags: bool = False) -> bool:
    """Whether two logs have the same records in the same segments; not compared: what one lacks at its end, and
    tags but the newest behind the `signed` records."""
    count = len(leaves_of(theirs))
    for number, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        is_end = number == len(theirs) - 1
        if len(a.records) < len(b.records) or (len(a.records) > len(b.records) and not is_end) or b.rest:
            return False
        if not is_end and a.is_sealed != b.is_sealed:
            return False
        if a.header != b.header:
            return False
        for place, (mine_, theirs_) in enumerate(zip(a.records, b.records, strict=False)):
            if (mine_.header, mine_.body) != (theirs_.header, theirs_.body):
                return False
            is_newest = is_end and place == len(b.records) - 1 and count > signed
            if mine_.tag != theirs_.tag and not (tags and mine_.ends_group and theirs_.ends_group and not is_newest):
                return False
    return len(theirs) <= len(mine)


def _log_like(case: Case, *, tags: bool = False) -> set[str]:
    changed = {name for name in case.below("segments/") if not name.startswith("segments/.")}
    mine, theirs = _log(case.before), _log(case.after)
    ends = bool(theirs and theirs[-1].records and theirs[-1].records[-1].ends_group)
    signed = mark_size(case.world.mark)
    is_long_enough = len(leaves_of(theirs)) >= signed
    is_like = _is_same_but(mine, theirs, signed, tags=tags) and (ends or not theirs[-1:] or not theirs[-1].records)
    return changed if is_long_enough and is_like else set()


def _cut(case: Case) -> set[str]:
    """Only that whole groups are gone; where something else was done too, that entry explains the log."""
    shorter = len(leaves_of(_log(case.after))) < len(leaves_of(_log(case.before)))
    return _log_like(case, tags=True) if shorter else set()


def _sealed(case: Case) -> set[str]:
    """Only that the last segment has a footer: each record and tag is there."""
    mine, theirs = _log(case.before), _log(case.after)
    is_as_long = len(mine) == len(theirs) and len(leaves_of(mine)) == len(leaves_of(theirs))
    return _log_like(case) if is_as_long and theirs[-1:] and theirs[-1].is_sealed and not mine[-1].is_sealed else set()


def _tags(case: Case) -> set[str]:
    return _log_like(case, tags=True) if not _log_like(case) else set()


def _fewer_notes(case: Case) -> set[str]:
    """Notes between the first and the last are gone, or the beginning of another follows."""
    held = case.after.get(_HISTORY)
    if held is None:
        return set()
    mine, theirs = notes.split(case.before[_HISTORY]), notes.split(held)
    torn = held[len(b"".join(theirs)) :]
    places = iter(mine)
    is_part = all(any(each == note for each in places) for note in theirs) and theirs[-1:] == mine[-1:]
    is_torn = not torn or any(note.startswith(torn) for note in mine)
    return case.below(_HISTORY) if is_part and is_torn else set()


def _acts(case: Case) -> set[str]:
    return case.below("pending.json") if b'"segment.repaired"' in case.after.get("pending.json", b"") else set()


LISTED: Final = (
    Listed(
        "whole groups at the end are gone that were stored after the mark",
        "the mark is raised after each checkpoint, at least once a minute and when the server stops; after a hard stop"
        " nothing outside the folder knows what came later", _cut),
    Listed(
        "buckets of the keyring are, with their sums, what they were after the last checkpoint",
        "each checkpoint notes the states of all buckets; changes since then, up to a minute, have no other witness",
        _newest_buckets),
    Listed(
        "checkpoints between the first and the last are gone from the history",
        "the later ones cover what they covered; whoever kept one of them can still check it", _fewer_notes),
    Listed(
        "the last segment has its footer, and no segment follows",
        "the footer follows from the records; a stop between footer and next segment leaves the same", _sealed),
    Listed(
        "a tag that is not the newest behind the last checkpoint is another one",
        "the newest tag and the checkpoints bind every record before them; no other tag is verified", _tags),
    Listed(
        "tiles are missing, or are those of an older tree",
        "they hold nothing that the segments do not, and the next checkpoint makes them again", _older_tiles),
    Listed(
        "the index is gone, empty, or as it was at some time", "it is made from the log, which brings it up to date",
        _older_index),
    Listed(
        "`pending.json` announces a repair from a copy that was not made",
        "a repair needs no key, so its record (REPAIR) says what the folder said, not who did it", _acts),
    Listed(
        "what is never believed: `lost+found/`, `spool/`, a segment that was not installed, the scrub's place",
        "nothing is read from it but where the scrub goes on, and each pass reads everything", _never_read),
)  # fmt: skip
