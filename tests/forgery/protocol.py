"""The commit protocol against somebody who puts things back, in small, to be explored completely.

A writer stores objects of studies, shreds a key, signs, and is stopped anywhere. The attacker has kept one copy of the
folder, from any moment. Somebody with the same keys may have gone on writing to that copy elsewhere (a restore drill).
While nobody writes, he puts back any store of either, or drops a record and makes the chain fit; he cannot tag, sign or
write rows, and does not reach the mark. Then a writer opens. `Faults` takes one of its rules out.

A record is what it says, a log the tuple of its records, and a signature the log that it covers: that is what tags and
roots bind. `tests/crash/protocol.py` has the power cuts; this one lets nothing go missing by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

Record = tuple[str, int]  # "object" or "shred", study
Log = tuple[Record, ...]

_STORES = ("log", "history", "latest", "keyring")
_MOST_RECORDS = 2
_MOST_STOPS = 1
_DRILL = -1  # the lineage of whoever goes on with the copy
_MADE = -2  # that of the mark when the archive was made


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of studies that are alive, those that were shredded, of these the ones whose shred has no record yet,
    the checkpoint it remembers, and how often a key was taken away."""

    keys: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    waiting: frozenset[int] = frozenset()
    remembered: Log = ()
    feed: int = 0


@dataclass(frozen=True, slots=True)
class Folder:
    """What the attacker can write. `history` is its newest note, like `latest`; older ones are below it."""

    log: Log = ()
    history: Log = ()
    latest: Log = ()
    keyring: Keyring = Keyring()


@dataclass(frozen=True, slots=True)
class State:
    """Everything there is. `signing` counts the steps of a checkpoint that were done; `mark` is a log and a feed, and
    `dead` the studies that were shredded when it was raised. `shown` is the newest published checkpoint, which anybody
    may have; `touched` names the stores that the attacker has changed.

    `tagged` and `signed` are all logs that the key ever vouched for, and each tag names a lineage: nobody can make
    others. `lineage` is that of the writer, once it has parted from all copies, and `marked` that in the mark.
    """

    folder: Folder = Folder()
    mark: tuple[Log, int] = ((), 0)
    dead: frozenset[int] = frozenset()
    shown: Log = ()
    touched: frozenset[str] = frozenset()
    kept: Folder | None = None
    is_open: bool = True
    is_attacked: bool = False  # since the last stop
    signing: int = 0
    stops: int = 0
    tagged: frozenset[tuple[Log, int]] = frozenset()
    signed: frozenset[Log] = frozenset({()})
    vouched: Log | None = None  # what was just tagged or signed
    lineage: int | None = None
    marked: int = _MADE
    drill: Folder | None = None

    @property
    def own(self) -> frozenset[Log]:
        """The logs that this archive vouched for, and no copy of it."""
        return self.signed | {log for log, lineage in self.tagged if lineage != _DRILL}


@dataclass(frozen=True, slots=True)
class Faults:
    """Rules that are taken out, to see that they matter."""

    mark_is_not_compared: bool = False
    feed_is_not_compared: bool = False
    keyring_remembers_nothing: bool = False
    keyring_may_lack_keys: bool = False
    tag_is_not_verified: bool = False
    checkpoints_are_not_compared: bool = False
    latest_before_keyring: bool = False
    mark_before_history: bool = False
    lineage_is_not_compared: bool = False
    lineage_is_not_marked_first: bool = False


def steps(state: State, faults: Faults) -> Iterator[State]:
    """Every state that can follow."""
    if state.is_open:
        if state.lineage is None:
            yield from _parted(state, faults)
        else:
            yield from _written(state)
        yield from _signed(state, faults)
        if state.stops < _MOST_STOPS:
            stopped = replace(state, is_open=False, is_attacked=False, signing=0, stops=state.stops + 1, vouched=None)
            yield replace(stopped, lineage=None)
        return
    if state.kept is not None and state.drill is None:
        yield _drilled(state, state.kept)
    if not state.is_attacked:
        yield from _attacked(replace(state, is_attacked=True))
    if not refuses(state, faults):
        yield replace(state, is_open=True)


def _parted(state: State, faults: Faults) -> Iterator[State]:
    """The writer, all of whose log is signed and marked, begins a lineage of its own."""
    if state.folder.log == state.mark[0] and not state.signing:
        marked = state.marked if faults.lineage_is_not_marked_first else state.stops
        yield replace(state, lineage=state.stops, marked=marked, vouched=None)


def _drilled(state: State, kept: Folder) -> State:
    """Somebody stores an object in the copy, and signs."""
    log = (*kept.log, ("object", 3))
    ring = replace(kept.keyring, keys=kept.keyring.keys | {3}, remembered=log)
    drill = Folder(log, log, log, ring)
    return replace(state, drill=drill, tagged=state.tagged | {(log, _DRILL)}, vouched=None)


def _written(state: State) -> Iterator[State]:
    """An object of a study is stored, its key first; or a key is shredded, and the record of that follows."""
    folder, ring = state.folder, state.folder.keyring
    if state.signing:
        return
    if state.kept is None:
        yield replace(state, kept=folder, vouched=None)  # he copies the folder now
    if len(folder.log) >= _MOST_RECORDS:
        return
    for study in ring.waiting:
        told = replace(ring, waiting=ring.waiting - {study})
        yield _appended(state, replace(folder, keyring=told), ("shred", study))
    for study in (1, 2):
        if study not in ring.keys | ring.gone and all(each[1] != study for each in folder.log):
            yield _appended(state, replace(folder, keyring=replace(ring, keys=ring.keys | {study})), ("object", study))
    if 1 in ring.keys:
        taken = Keyring(ring.keys - {1}, ring.gone | {1}, ring.waiting | {1}, ring.remembered, ring.feed + 1)
        yield replace(state, folder=replace(folder, keyring=taken), vouched=None)


def _appended(state: State, folder: Folder, record: Record) -> State:
    log = (*folder.log, record)
    assert state.lineage is not None
    made = replace(state, folder=replace(folder, log=log), tagged=state.tagged | {(log, state.lineage)})
    return replace(made, vouched=log)


def _signed(state: State, faults: Faults) -> Iterator[State]:
    """One more step of a checkpoint: history, keyring, latest, mark; each durable before the next."""
    folder, log = state.folder, state.folder.log
    if state.signing == 0 and log == folder.latest == state.mark[0] and folder.keyring.feed == state.mark[1]:
        return
    order = ["history", "keyring", "latest", "mark"]
    if faults.latest_before_keyring:
        order = ["history", "latest", "keyring", "mark"]
    if faults.mark_before_history:
        order = ["mark", "history", "keyring", "latest"]
    what = order[state.signing]
    after = replace(state, signing=(state.signing + 1) % 4, vouched=None)
    if state.signing == 0:
        after = replace(after, signed=state.signed | {log}, vouched=log)
    if what == "history":
        yield replace(after, folder=replace(folder, history=log))
    elif what == "keyring":
        yield replace(after, folder=replace(folder, keyring=replace(folder.keyring, remembered=log)))
    elif what == "latest":
        yield replace(after, folder=replace(folder, latest=log), shown=log)
    else:
        yield replace(after, mark=(log, folder.keyring.feed), dead=_shredded(folder))


def _attacked(state: State) -> Iterator[State]:
    """He puts back some stores of his copy, as it was or as it went on, or drops a record of the log, with every
    checkpoint that it contradicts."""
    folder = state.folder
    for copy in (state.kept, state.drill):
        for count in range(1, len(_STORES) + 1) if copy is not None else ():
            for names in combinations(_STORES, count):
                other = replace(folder, **{name: getattr(copy, name) for name in names})
                yield replace(state, folder=other, touched=state.touched | {*names})
    touched = state.touched | {"log", "history", "latest"}
    for place in range(len(folder.log)):
        shorter = folder.log[:place] + folder.log[place + 1 :]
        fitting = max((each for each in state.signed if shorter[: len(each)] == each), key=len)
        yield replace(state, folder=replace(folder, log=shorter), touched=touched)
        yield replace(state, folder=replace(folder, log=shorter, history=fitting, latest=fitting), touched=touched)


def refuses(state: State, faults: Faults) -> bool:
    """Whether a writer that opens this refuses to write (`archive.repair.tail`, `server.engine.opening`)."""
    folder, ring, (marked, feed) = state.folder, state.folder.keyring, state.mark
    remembered = () if faults.keyring_remembers_nothing else ring.remembered
    inside = [folder.history, remembered, folder.latest]
    if not faults.keyring_remembers_nothing and len(remembered) < len(folder.latest):
        return True
    if not faults.mark_is_not_compared and min(len(each) for each in inside) < len(marked):
        return True
    claims = [*inside, *([] if faults.mark_is_not_compared else [marked])]
    if not faults.checkpoints_are_not_compared and any(folder.log[: len(each)] != each for each in claims):
        return True
    if not faults.feed_is_not_compared and not faults.mark_is_not_compared and ring.feed < feed:
        return True
    if not faults.tag_is_not_verified and not _is_vouched_for(state, faults):
        return True
    return not faults.keyring_may_lack_keys and bool(_lacking(folder.log, ring))


def _is_vouched_for(state: State, faults: Faults) -> bool:
    """Whether the key tagged or signed this log; behind the mark, under the lineage that it has."""
    log = state.folder.log
    if len(log) > len(state.mark[0]) and not faults.lineage_is_not_compared and not faults.mark_is_not_compared:
        return (log, state.marked) in state.tagged
    return log in state.signed | {each for each, _ in state.tagged}


def _lacking(log: Log, ring: Keyring) -> set[int]:
    """Studies with objects whose key is neither there nor shredded, and shredded ones whose key is back."""
    shredded = {study for what, study in log if what == "shred"}
    stored = {study for what, study in log if what == "object"}
    return (stored - shredded - ring.keys - ring.gone) | (shredded & ring.keys)


def _shredded(folder: Folder) -> frozenset[int]:
    return folder.keyring.gone | {study for what, study in folder.log if what == "shred"}


def broken(state: State, faults: Faults) -> str | None:
    """Which promise this state breaks, or None."""
    log, marked = state.vouched, state.mark[0]
    if log is not None and log[: len(marked)] != marked:
        return "something is signed that does not begin with what the mark names"
    # Between publishing and raising the mark, only the keyring knows; put back with the rest, it knows nothing.
    if log is not None and "keyring" not in state.touched and log[: len(state.shown)] != state.shown:
        return "something is signed that contradicts a published checkpoint"
    if not state.is_open:
        needless = not state.touched and refuses(state, faults)
        return "a writer refuses although nobody changed anything" if needless else None
    if state.folder.log not in state.own:
        return "a writer goes on from a log that this archive never wrote"
    if state.dead & state.folder.keyring.keys:
        return "a key is alive whose shred the mark covers"
    if _lacking(state.folder.log, state.folder.keyring):
        return "a stored object has no key"
    return None


def explore(faults: Faults) -> tuple[int, str | None]:
    """Visit every reachable state; returns how many there are, and the first broken promise."""
    seen, todo = {State()}, [State()]
    while todo:
        state = todo.pop()
        what = broken(state, faults)
        if what is not None:
            return len(seen), what
        for following in steps(state, faults):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return len(seen), None
