"""Moves on whole segments, their headers, footers and tags, and on their plain bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from tests.forgery.kit.segments import HEADER, LOG_EPOCH, OPEN, Record, Segment, sealed_header
from tests.forgery.moves.attacked import Attacked, CannotError, log_in, segment_files
from tests.forgery.moves.records import LogMove


class SegmentDropped(LogMove):
    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        del log[rng.randrange(len(log))]
        if not log:
            raise CannotError


class SegmentsSwapped(LogMove):
    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        first, second = rng.randrange(len(log)), rng.randrange(len(log))
        log[first], log[second] = log[second], log[first]


class SegmentRepeated(LogMove):
    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        log.insert(rng.randrange(len(log) + 1), rng.choice(log))


class SegmentSpliced(LogMove):
    """A segment of a copy, or of another archive, in the place of one, or behind it."""

    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        place = rng.randrange(len(log))
        log[place : place + rng.randrange(2)] = [
            rng.choice(log_in(at.world.copy(rng.choice(("then", "fork", "drill", "other")))))
        ]


class EpochPlanted(LogMove):
    """A segment that begins an epoch of the log: the body of that record is in the clear, and needs no key."""

    def change(self, log: list[Segment], at: Attacked, rng: Random) -> None:
        begun = next((r for s in log for r in s.records if r.kind == LOG_EPOCH), None)
        if begun is None:
            raise CannotError
        place = rng.randrange(1, len(log) + 1)
        log.insert(place, Segment(log[-1].header, (begun,), is_sealed=True))


@dataclass(frozen=True, slots=True)
class HeaderAltered:
    """A field of a segment's header that the chain does not give, with a true checksum."""

    what: str
    begin: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.what} of a segment's header altered"

    def apply(self, at: Attacked, rng: Random) -> None:
        path = rng.choice(at.segment_files() or [None])
        if path is None:
            raise CannotError
        data = bytearray(path.read_bytes())
        end = self.begin + self.size
        value = int.from_bytes(data[self.begin : end], "big") + rng.choice((-1, 1, 1000))
        data[self.begin : end] = (value % (1 << 8 * self.size)).to_bytes(self.size, "big")
        path.write_bytes(sealed_header(bytes(data[:HEADER])) + data[HEADER:])


@dataclass(frozen=True, slots=True)
class TagReplaced:
    """A group's tag is noise, or that of another group."""

    is_newest: bool

    @property
    def name(self) -> str:
        return "the newest tag replaced" if self.is_newest else "an older tag replaced"

    def apply(self, at: Attacked, rng: Random) -> None:
        log = at.log()
        places = [(s, r) for s, x in enumerate(log) for r, record in enumerate(x.records) if record.ends_group]
        if len(places) < 2:
            raise CannotError
        s, r = places[-1] if self.is_newest else rng.choice(places[:-1])
        others = [log[t].records[q].tag for t, q in places if (t, q) != (s, r)]
        _set_tag(at, log, (s, r), rng.choice((rng.randbytes(80), rng.choice(others))))


@dataclass(frozen=True, slots=True)
class GroupEndMoved:
    """A group ends where none did, or not where it did."""

    name: str = "the end of a group moved"

    def apply(self, at: Attacked, rng: Random) -> None:
        log = at.log()
        places = [(s, r) for s, x in enumerate(log) for r in range(len(x.records))]
        if not places:
            raise CannotError
        s, r = rng.choice(places)
        _set_tag(at, log, (s, r), OPEN if log[s].records[r].ends_group else rng.randbytes(80))


def _set_tag(at: Attacked, log: list[Segment], place: tuple[int, int], tag: bytes) -> None:
    s, r = place
    records: list[Record] = list(log[s].records)
    records[r] = replace(records[r], tag=tag)
    log[s] = replace(log[s], records=tuple(records))
    at.write_log(log, chain=False)


@dataclass(frozen=True, slots=True)
class LastSealed:
    """The last segment gets a true footer, and no segment follows."""

    name: str = "the last segment closed with a footer"

    def apply(self, at: Attacked, rng: Random) -> None:
        log = at.log()
        if not log or not log[-1].records or log[-1].is_sealed:
            raise CannotError
        log[-1] = replace(log[-1], is_sealed=True)
        at.write_log(log, chain=False)


@dataclass(frozen=True, slots=True)
class BytesChanged:
    """Plain bytes of a segment: one flipped, some zeroed, cut off, or added; nothing is made to fit."""

    how: str

    @property
    def name(self) -> str:
        return f"bytes of a segment {self.how}"

    def apply(self, at: Attacked, rng: Random) -> None:
        paths = [path for path in at.segment_files() if path.stat().st_size > 100]
        if not paths:
            raise CannotError
        path = rng.choice(paths)
        data = bytearray(path.read_bytes())
        place = rng.randrange(len(data))
        if self.how == "flipped":
            data[place] ^= rng.randrange(1, 256)
        elif self.how == "zeroed":
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        elif self.how == "cut off":
            del data[place:]
        else:
            data += rng.choice((rng.randbytes(rng.randrange(1, 300)), bytes(data[HEADER:600])))
        path.write_bytes(data)


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A whole file of the log: removed, that of a copy, that of another number, or a further one."""

    how: str

    @property
    def name(self) -> str:
        return f"a segment's file {self.how}"

    def apply(self, at: Attacked, rng: Random) -> None:
        paths = at.segment_files()
        if not paths:
            raise CannotError
        path, other = rng.choice(paths), rng.choice(paths)
        if self.how == "removed":
            path.unlink()
        elif self.how == "of a copy":
            theirs = rng.choice(segment_files(at.world.copy(rng.choice(("then", "late", "fork", "drill", "other")))))
            (path.parent / theirs.name).write_bytes(theirs.read_bytes())
        elif self.how == "under another's number":
            path.write_bytes(other.read_bytes())
        else:
            (path.parent / f"{len(paths) + 1:08}.seg").write_bytes(path.read_bytes())


_EACH = {
    SegmentDropped: "a segment dropped", SegmentsSwapped: "two segments swapped", SegmentRepeated: "a segment repeated",
    SegmentSpliced: "a foreign segment", EpochPlanted: "an epoch of the log planted",
}  # fmt: skip
MOVES = (
    *(made(what, launder) for made, what in _EACH.items() for launder in (False, True)),
    HeaderAltered("the epoch", 76, 8), HeaderAltered("the log", 72, 4),
    TagReplaced(is_newest=True), TagReplaced(is_newest=False), GroupEndMoved(), LastSealed(),
    *(BytesChanged(how) for how in ("flipped", "zeroed", "cut off", "added")),
    *(SegmentFile(how) for how in ("removed", "of a copy", "under another's number", "added")),
)  # fmt: skip
