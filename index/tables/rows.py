"""The rows of the index and their bytes: one per part of a study, series and instance, as msgpack arrays.

Rule: pure and frozen; a change makes a new row, so that readers never see half of one. The content of a row does not
depend on the order in which records arrive, so that a rebuilt index equals the one that grew. `index.tables.row_cipher`
seals rows, `index.tables.sealed_rows` stores them, `index.tables.merge` says what a further object changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from coffer.archive.format.entry import Position, RecordId
from coffer.index.dicom.attributes import Stored
from coffer.index.instance.identity import PartId
from coffer.index.instance.order import NEVER, Order
from coffer.keys.errors import FormatError

__all__ = ["SCHEMA", "InstanceRow", "Merged", "SeriesRow", "StudyRow", "Version", "decode_row", "encode_row", "served"]

SCHEMA: Final = 5  # of the three rows together; with another number, rebuild


class Version(msgspec.Struct, frozen=True, array_like=True):
    """One stored data set of an instance and its place in the log. Lengths in bytes, times in ms since 1970 UTC.

    `time_ms` is the time in its record's header, `received_ms` when the object arrived. `first`: the order of the
    object's first record, if it was sealed again since and this is a later one, and `original` its content id there.
    `replaces`: whether it replaces the version served before it. `previous`: the content id, as first stored, of the
    version that was the newest when this one was stored; empty if there was none.
    """

    log: int
    seq: int
    segment: int
    offset: int
    body_len: int
    time_ms: int
    content_id: bytes
    transfer_syntax: str
    dataset_length: int
    received_ms: int
    flags: int
    study_key_id: bytes = b""  # empty until `Index.apply` fills it in, as `replaces`
    first: Order | None = None
    source_ae: str = ""
    replaces: bool = True
    previous: bytes = b""
    original: bytes = b""

    @staticmethod
    def of(  # noqa: PLR0917  # the order of the record's own fields
        position: Position,
        time_ms: int,
        content_id: bytes,
        transfer_syntax: str,
        dataset_length: int,
        received_ms: int,
        flags: int,
        source_ae: str = "",
        first: Order | None = None,
        previous: bytes = b"",
        original: bytes = b"",
    ) -> Version:
        """Return the version that a record at `position` with this time holds; `first` and `original`: of its first
        record, if that was another one."""
        return Version(
            *position,
            time_ms,
            content_id,
            transfer_syntax,
            dataset_length,
            received_ms,
            int(flags),
            first=first,
            source_ae=source_ae,
            previous=previous,
            original=original,
        )

    @property
    def position(self) -> Position:
        """The place of the record, for the log's reader."""
        return Position(self.log, self.seq, self.segment, self.offset, self.body_len)

    @property
    def id(self) -> RecordId:
        """The name of its record."""
        return RecordId(self.log, self.seq)

    @property
    def recorded(self) -> Order:
        """The order of its own record: of two records of one object the later one counts."""
        return Order(self.time_ms, self.log, self.seq)

    @property
    def order(self) -> Order:
        """The order of the object's first record: it decides which version is newer, even after a rekey."""
        return self.first or self.recorded

    @property
    def first_content_id(self) -> bytes:
        """The content id in the object's first record, by which the next version names this one."""
        return self.original or self.content_id


def served(versions: Iterable[Version]) -> Version:
    """The version that is served, of one or more: the first, until another one replaces it."""
    known = list(versions)
    return max((v for v in known if v.replaces), key=_order, default=None) or min(known, key=_order)


def _order(version: Version) -> Order:
    return version.order


class Merged(msgspec.Struct, frozen=True, array_like=True):
    """Attributes of an entity that many instances describe; each value is that of the newest one that has a value.

    `own[tag]` is the order of the version that a value comes from; `all_since` stands for every tag at once (the usual
    case: all instances of a series agree), so that a thousand equal descriptions change one order. `differing` are
    the tags with more than one value. `stale`: a description was withdrawn that cannot be subtracted without the
    others; all are merged again when the values are needed.
    """

    values: Stored = {}
    own: dict[int, Order] = {}
    all_since: Order = NEVER
    differing: tuple[int, ...] = ()
    stale: bool = False

    @property
    def newest(self) -> Order:
        """The highest order that any of the values comes from."""
        return max(self.all_since, *self.own.values(), NEVER)

    def merge(self, order: Order, values: Stored) -> Merged:
        """Return the attributes with one more description merged in; self if nothing changes."""
        if self.stale:
            return self
        if values == self.values:
            if order <= self.all_since:
                return self
            own = {tag: its for tag, its in self.own.items() if its > order} if self.own else self.own
            return Merged(self.values, own, order, self.differing)
        if not self.values:
            return Merged(values, {}, order)
        own = {tag: self.order_of(tag) for tag in self.values}
        merged, differing = dict(self.values), set(self.differing)
        for tag, value in values.items():
            if tag in merged and merged[tag] != value:
                differing.add(tag)
            if order > own.get(tag, NEVER):
                merged[tag] = value
                own[tag] = order
        return Merged(merged, own, differing=tuple(sorted(differing)))

    def without(self, order: Order) -> Merged:
        """Return the attributes after the description of this order was withdrawn; marked stale if they may change."""
        if self.stale or (not self.differing and order != self.all_since and order not in self.own.values()):
            return self
        return Merged(self.values, self.own, self.all_since, self.differing, stale=True)

    def joined_with(self, other: Merged) -> Merged:
        """Return the attributes of both together, each with the value of the newest description."""
        values, own = dict(self.values), {tag: self.order_of(tag) for tag in self.values}
        for tag, value in other.values.items():
            if other.order_of(tag) > own.get(tag, NEVER):
                values[tag], own[tag] = value, other.order_of(tag)
        return Merged(values, own)

    def order_of(self, tag: int) -> Order:
        """The order of the version that an attribute's value comes from."""
        return max(self.own.get(tag, NEVER), self.all_since)

    @staticmethod
    def of(descriptions: Iterable[tuple[Order, Stored]]) -> Merged:
        """Return the attributes of all these descriptions, each with its order."""
        merged = Merged()
        for order, values in sorted(descriptions, key=lambda each: each[0]):
            merged = merged.merge(order, values)
        return merged


class StudyRow(msgspec.Struct, frozen=True, array_like=True):
    """One part of a study: the objects of one patient in it. Everything before `versions` describes the versions that
    are served; `versions` and what follows describes every version that was ever stored in the part."""

    part: PartId
    study_key_id: bytes  # of the first record of the part
    attributes: Merged
    numbered: int = 0  # series that ever got a number; they keep it
    series: int = 0
    instances: int = 0
    differing_series: int = 0  # series whose instances contradict each other
    modalities: dict[str, int] = {}  # of how many instances
    sop_classes: dict[str, int] = {}
    shared: bool = False  # another part has, or had, the same name
    versions: int = 0
    unindexed: int = 0  # versions whose record carries a flag: kept, but not fully read
    data_bytes: int = 0
    latest_date: str = ""  # YYYYMMDD, from which the retention counts: the latest (`index.instance.retention_day`)
    received_ms: int = 0  # when the newest arrived
    some_without_issuer: bool = False  # at least one states no Issuer of Patient ID, whatever `part` has

    @property
    def study_uid(self) -> str:
        """Study Instance UID; "" for an object without one."""
        return self.part.study_uid

    @property
    def is_shown(self) -> bool:
        """Whether queries may show it: it belongs to a study, and something in it is served."""
        return bool(self.instances and self.part.study_uid)


class SeriesRow(msgspec.Struct, frozen=True, array_like=True):
    """One series of a part. `numbered` instances ever got a number, `instances` of them are served."""

    series_uid: str
    attributes: Merged
    numbered: int = 0
    instances: int = 0


class InstanceRow(msgspec.Struct, frozen=True, array_like=True):
    """One instance of a part: all its versions in the part by order, and how the best of them describes patient and
    study, series, and itself. `is_served`: that version is served; otherwise one in another part is."""

    sop_instance: str
    sop_class: str
    study: Stored
    series: Stored
    attributes: Stored
    versions: tuple[Version, ...]
    is_served: bool = False

    @property
    def best(self) -> Version:
        """The version of this part that queries describe and retrievals return, if any of this part is served."""
        return served(self.versions)


Row = TypeVar("Row", StudyRow, SeriesRow, InstanceRow)
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: Final = {kind: msgspec.msgpack.Decoder(kind) for kind in (StudyRow, SeriesRow, InstanceRow)}


def encode_row(row: StudyRow | SeriesRow | InstanceRow) -> bytes:
    """Return the row as msgpack (schema `SCHEMA`)."""
    return _ENCODER.encode(row)


def decode_row(kind: type[Row], data: bytes) -> Row:
    """Return the row. Raises FormatError for anything that is not one of this kind."""
    try:
        row: Row = _DECODERS[kind].decode(data)  # type: ignore[assignment]  # one dict cannot tie key type to value type
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FormatError("an index row is not valid", hint="run `coffer index rebuild`") from error
    return row
