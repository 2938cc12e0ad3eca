"""The commit protocol in small, to be explored completely: every order of steps, a stop anywhere, and recovery.

Some senders store one object each, of several studies or of one; they share a sync as the real committer lets them. A
state holds what is stable and what is not. `steps` is the protocol; `Faults` takes one of its rules out. It is a model
and proves the order of steps, not the code, which the campaign beside it runs for real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, combinations

Record = tuple[int, int, int]  # whose object, the group it was written in, its number


_STOPS = 2  # power cuts, killed processes and failed syncs together


class At(Enum):
    """How far one sender's object has come."""

    START = 0
    HAS_KEY = 1
    WRITTEN = 2
    STABLE = 3
    INDEXED = 4
    ANSWERED = 5


@dataclass(frozen=True, slots=True)
class Faults:
    """Rules that are taken out, to see that they matter."""

    record_before_key: bool = False
    answer_before_sync: bool = False
    checkpoint_before_sync: bool = False
    next_group_before_sync: bool = False
    answer_before_index: bool = False
    recovery_keeps_holes: bool = False
    found_is_not_synced: bool = False
    failed_sync_is_retried: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Everything there is. `keys` and `stable` survive a power cut, of `unsynced` any part may."""

    at: tuple[At, ...]
    studies: tuple[int, ...]
    keys: frozenset[int] = frozenset()
    stable: tuple[Record, ...] = ()
    unsynced: tuple[Record, ...] = ()
    index: frozenset[int] = frozenset()  # what a query finds; none of it needs to be stable
    signed: int = 0
    acknowledged: frozenset[int] = frozenset()
    stops: int = 0


def steps(state: State, faults: Faults) -> Iterator[State]:
    """Every state that can follow."""
    for sender, at in enumerate(state.at):
        yield from _sender(state, sender, at, faults)
    if state.unsynced:
        synced = tuple(At.STABLE if a is At.WRITTEN else a for a in state.at)
        yield replace(state, stable=state.stable + state.unsynced, unsynced=(), at=synced)
    size = len(state.stable) + (len(state.unsynced) if faults.checkpoint_before_sync else 0)
    if size > state.signed and (not state.unsynced or faults.checkpoint_before_sync):
        yield replace(state, signed=size)
    if state.stops < _STOPS:
        yield from crashes(state, faults)
        yield killed(state, faults)
        if faults.failed_sync_is_retried and state.unsynced:
            yield from retried(state, faults)


def _sender(state: State, sender: int, at: At, faults: Faults) -> Iterator[State]:
    def to(new: At, **changes: object) -> State:
        return replace(state, at=(*state.at[:sender], new, *state.at[sender + 1 :]), **changes)  # type: ignore[arg-type]

    study = state.studies[sender]
    if at is At.START and sender in state.index:
        yield to(At.INDEXED)  # sent again after a stop: it is known already
        return
    if at is At.START:
        yield to(At.HAS_KEY, keys=state.keys | {study})
    if at is At.HAS_KEY or (at is At.START and faults.record_before_key):
        group = state.unsynced[0][1] if state.unsynced else len(state.stable)
        if faults.next_group_before_sync:
            group = len(state.stable) + len(state.unsynced)
        number = len(state.stable) + len(state.unsynced)
        yield to(At.WRITTEN, unsynced=(*state.unsynced, (sender, group, number)))
    if at is At.STABLE or (at is At.WRITTEN and faults.answer_before_sync):
        yield to(At.INDEXED, index=state.index | {sender})
    if at is At.INDEXED or (at is At.STABLE and faults.answer_before_index):
        yield to(At.ANSWERED, acknowledged=state.acknowledged | {sender})


def crashes(state: State, faults: Faults) -> Iterator[State]:
    """The power goes: any part of what was not synced may be there; then recovery, and the senders start again.

    A sync that fails comes to the same: the writer stops, and who opens drops the cache and reads what the device has.
    """
    places = range(len(state.unsynced))
    for kept in chain.from_iterable(combinations(places, n) for n in range(len(places) + 1)):
        whole = list(state.stable)
        for place in places:
            if place in kept:
                whole.append(state.unsynced[place])
                continue
            later = [state.unsynced[k] for k in kept if k > place]
            if faults.recovery_keeps_holes:
                continue
            # Recovery's rule: a record of a later group behind the hole means that the hole was stable once.
            if any(group > len(whole) for _, group, _ in later):
                whole.append((-1, -1, -1))  # it refuses to open
            break
        yield _opened(state, tuple(whole), ())


def killed(state: State, faults: Faults) -> State:
    """The process is killed, and the next one finds all that the cache holds; it syncs that before it is believed."""
    if faults.found_is_not_synced:
        return _opened(state, state.stable, state.unsynced)
    return _opened(state, state.stable + state.unsynced, ())


def retried(state: State, faults: Faults) -> Iterator[State]:
    """A sync failed, and the next one, which has nothing to write any more, is believed: the senders are answered."""
    for after in crashes(state, faults):
        at = tuple(At.STABLE if a is At.WRITTEN else a for a in state.at)
        yield replace(after, at=at)


def _opened(state: State, stable: tuple[Record, ...], unsynced: tuple[Record, ...]) -> State:
    found = frozenset(sender for sender, _, _ in stable + unsynced)
    at = tuple(At.ANSWERED if s in state.acknowledged else At.START for s in range(len(state.at)))
    return replace(state, at=at, stable=stable, unsynced=unsynced, index=found, stops=state.stops + 1)


def broken(state: State) -> str | None:
    """Which promise this state breaks, or None."""
    there = {sender for sender, _, _ in state.stable}
    if -1 in there:
        return "it refuses to open although nothing acknowledged is damaged"
    if not state.acknowledged <= there:
        return "an acknowledged object is not stable"
    if not state.acknowledged <= state.index:
        return "an acknowledged object is not found"
    if any(state.studies[sender] not in state.keys for sender in there):
        return "a record is stable without its key"
    if state.signed > len(state.stable):
        return "a checkpoint covers what is not stable"
    if any(number != place for place, (_, _, number) in enumerate(state.stable)):
        return "a hole in the log"
    return None


def explore(studies: tuple[int, ...], faults: Faults) -> tuple[int, str | None]:
    """Visit every reachable state; returns how many there are, and the first broken promise."""
    start = State((At.START,) * len(studies), studies)
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        what = broken(state)
        if what is not None:
            return len(seen), what
        for following in steps(state, faults):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return len(seen), None
