"""Moves on records and groups of the log: each makes the rest of the log fit again, as far as that needs no key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from tests.forgery.kit.segments import Record, Segment
from tests.forgery.moves.attacked import Attacked, CannotError, log_in

Group = tuple[Record, ...]
Groups = list[list[Group]]  # of each segment
FIELDS = {"kind": (6, 8), "time": (16, 24), "key id": (24, 40), "flags": (40, 44), "content id": (52, 84)}


@dataclass(frozen=True, slots=True)
class LogMove:
    """A change of the groups or records of the log. `launder` as in `Attacked.write_log`."""

    what: str
    launder: bool = False

    @property
    def name(self) -> str:
        return f"{self.what}, all made to fit" + (", checkpoints cut back" if self.launder else "")

    def apply(self, at: Attacked, rng: Random) -> None:
        log = at.log()
        self.change(log, at, rng)
        at.write_log([each for each in log if each.records] or log[:1], launder=self.launder)

    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        """Change the log in place."""
        raise NotImplementedError


def _place(log: list[Segment], rng: Random) -> tuple[int, int]:
    """A record, often one near the end: its segment and its place there."""
    places = [(s, r) for s, segment in enumerate(log) for r in range(len(segment.records))]
    if not places:
        raise CannotError
    return rng.choice(places[-6:] if rng.random() < 0.3 else places)


def _with(segment: Segment, records: list[Record]) -> Segment:
    return replace(segment, records=tuple(records))


def _groups(segment: Segment) -> list[Group]:
    found, now = list[Group](), list[Record]()
    for record in segment.records:
        now.append(record)
        if record.ends_group:
            found.append(tuple(now))
            now = []
    return [*found, tuple(now)] if now else found


def _flat(segment: Segment, groups: list[Group]) -> Segment:
    return _with(segment, [record for group in groups for record in group])


class RecordDropped(LogMove):
    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        s, r = _place(log, rng)
        log[s] = _with(log[s], [*log[s].records[:r], *log[s].records[r + 1 :]])


class RecordsSwapped(LogMove):
    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        (s, r), (t, q) = _place(log, rng), _place(log, rng)
        mine, theirs = log[s].records[r], log[t].records[q]
        log[s] = _with(log[s], [*log[s].records[:r], theirs, *log[s].records[r + 1 :]])
        log[t] = _with(log[t], [*log[t].records[:q], mine, *log[t].records[q + 1 :]])


class RecordRepeated(LogMove):
    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        (s, r), (t, q) = _place(log, rng), _place(log, rng)
        again = log[s].records[r]
        log[t] = _with(log[t], [*log[t].records[: q + 1], again, *log[t].records[q + 1 :]])


class RecordAltered(LogMove):
    """Another value of a header's field that the chain does not give, or another byte of the body."""

    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        s, r = _place(log, rng)
        record = log[s].records[r]
        if rng.random() < 0.4 and record.body:
            place = rng.randrange(len(record.body))
            body = bytearray(record.body)
            body[place] ^= rng.randrange(1, 256)
            made = replace(record, body=bytes(body))
        else:
            begin, end = FIELDS[rng.choice(list(FIELDS))]
            old = record.header[begin:end]
            new = old[:-1] + bytes([old[-1] ^ rng.randrange(1, 256)])
            made = record.with_header(begin, new)
        log[s] = _with(log[s], [*log[s].records[:r], made, *log[s].records[r + 1 :]])


class BodiesSwapped(LogMove):
    """Two records with each other's bodies."""

    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        (s, r), (t, q) = _place(log, rng), _place(log, rng)
        mine, theirs = log[s].records[r], log[t].records[q]
        log[s] = _with(log[s], [*log[s].records[:r], replace(mine, body=theirs.body), *log[s].records[r + 1 :]])
        log[t] = _with(log[t], [*log[t].records[:q], replace(theirs, body=mine.body), *log[t].records[q + 1 :]])


class RecordSpliced(LogMove):
    """A record of a copy, or of another archive, in the place of one, or behind it."""

    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        s, r = _place(log, rng)
        theirs = log_in(at.world.copy(rng.choice(("then", "fork", "drill", "other"))))
        t, q = _place(theirs, rng)
        keep = log[s].records[: r + rng.randrange(2)]
        log[s] = _with(log[s], [*keep, theirs[t].records[q], *log[s].records[r + 1 :]])


class GroupDropped(LogMove):
    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        s, _ = _place(log, rng)
        groups = _groups(log[s])
        del groups[rng.randrange(len(groups))]
        log[s] = _flat(log[s], groups)


class GroupsSwapped(LogMove):
    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        s, _ = _place(log, rng)
        groups = _groups(log[s])
        first, second = rng.randrange(len(groups)), rng.randrange(len(groups))
        groups[first], groups[second] = groups[second], groups[first]
        log[s] = _flat(log[s], groups)


class GroupRepeated(LogMove):
    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        s, _ = _place(log, rng)
        groups = _groups(log[s])
        groups.insert(rng.randrange(len(groups) + 1), rng.choice(groups))
        log[s] = _flat(log[s], groups)


class LogCut(LogMove):
    """The log ends earlier: at the end of a group, or within one."""

    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        s, r = _place(log, rng)
        log[s] = replace(_with(log[s], list(log[s].records[:r])), is_sealed=False)
        del log[s + 1 :]


class LogSpliced(LogMove):
    """From some record on, the log of the fork, of an older copy or of another archive."""

    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        s, r = _place(log, rng)
        theirs = log_in(at.world.copy(rng.choice(("fork", "drill", "then", "other"))))
        behind = [record for segment in theirs for record in segment.records][
            sum(len(x.records) for x in log[:s]) + r :
        ]
        log[s] = replace(_with(log[s], [*log[s].records[:r], *behind]), is_sealed=False)
        del log[s + 1 :]


_EACH = {
    RecordDropped: "a record dropped", RecordsSwapped: "two records swapped", RecordRepeated: "a record repeated",
    RecordAltered: "a record altered", BodiesSwapped: "two bodies swapped", RecordSpliced: "a foreign record",
    GroupDropped: "a group dropped", GroupsSwapped: "two groups swapped", GroupRepeated: "a group repeated",
    LogCut: "the log cut", LogSpliced: "the log continued from a copy",
}  # fmt: skip
MOVES = tuple(made(what, launder) for made, what in _EACH.items() for launder in (False, True))
