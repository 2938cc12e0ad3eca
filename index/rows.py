"""The rows of the index and their bytes: one per study, series and instance, as msgpack arrays.

Rule: pure and frozen; a change makes a new row, so that readers never see half of one. Merging is independent of the
order in which records arrive: the newest record (highest `seq`) that has an attribute decides its value, and versions
are kept sorted. That is what makes a rebuilt index equal to the one that grew. Sealing and storing is `index.tables`.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from archive.log import Position
from index.attributes import Stored
from keys.errors import FormatError

__all__ = ["SCHEMA", "InstanceRow", "Merged", "SeriesRow", "StudyRow", "Version", "decode_row", "encode_row"]

SCHEMA: Final = 1  # of the three rows together; another number means: rebuild


class Version(msgspec.Struct, frozen=True, array_like=True):
    """One stored data set of an instance and where the log has it. Lengths in bytes, time in ms since 1970 UTC."""

    seq: int
    segment: int
    offset: int
    body_len: int
    content_id: bytes
    transfer_syntax: str
    dataset_length: int
    received_ms: int
    flags: int
    study_key_id: bytes = b""  # empty until `Index.apply` fills it in

    @staticmethod
    def of(  # noqa: PLR0917  # the order of the record's own fields
        position: Position, content_id: bytes, transfer_syntax: str, dataset_length: int, received_ms: int, flags: int
    ) -> Version:
        """Return the version that a record at `position` holds."""
        return Version(
            position.seq,
            position.segment,
            position.offset,
            position.body_len,
            content_id,
            transfer_syntax,
            dataset_length,
            received_ms,
            int(flags),
        )

    @property
    def position(self) -> Position:
        """Where the record is, as the log's reader takes it."""
        return Position(self.seq, self.segment, self.offset, self.body_len)


class Merged(msgspec.Struct, frozen=True, array_like=True):
    """Attributes of an entity that many instances describe; each value is that of the newest record that had one.

    `own[tag]` is the seq a value comes from; `all_since` stands for every tag at once (the usual case: all instances
    of a series say the same), so that a thousand equal descriptions cost one integer each.
    """

    values: Stored = {}
    own: dict[int, int] = {}
    all_since: int = -1

    @property
    def newest(self) -> int:
        """The highest seq that any of the values comes from."""
        return max(self.all_since, *self.own.values(), -1)

    def merge(self, seq: int, values: Stored) -> Merged:
        """Return the attributes with those of record `seq` taken in; self where nothing changes."""
        if values == self.values:
            return self if seq <= self.all_since else Merged(self.values, self.own, seq)
        own = {tag: max(self.own.get(tag, -1), self.all_since) for tag in self.values}
        merged = dict(self.values)
        for tag, value in values.items():
            if seq > own.get(tag, -1):
                merged[tag] = value
                own[tag] = seq
        return Merged(merged, own)


class StudyRow(msgspec.Struct, frozen=True, array_like=True):
    """One study with its patient's attributes. Counts are of distinct instances, versions not counted."""

    study_uid: str
    study_key_id: bytes  # of the first record of the study
    attributes: Merged
    series: int = 0  # ever numbered; series keep their number
    instances: int = 0
    modalities: tuple[str, ...] = ()  # sorted
    sop_classes: tuple[str, ...] = ()  # sorted
    conflicts: int = 0  # further contents under one SOP Instance UID
    unindexed: int = 0  # instances whose record carries a flag: kept, but not fully read
    data_bytes: int = 0  # of all data sets, versions included


class SeriesRow(msgspec.Struct, frozen=True, array_like=True):
    """One series of a study."""

    series_uid: str
    attributes: Merged
    instances: int = 0


class InstanceRow(msgspec.Struct, frozen=True, array_like=True):
    """One instance: attributes of its newest version, and all versions, newest last."""

    sop_instance: str
    sop_class: str
    attributes: Stored
    versions: tuple[Version, ...]

    @property
    def newest(self) -> Version:
        """The version that queries describe and retrievals return."""
        return self.versions[-1]

    @property
    def contents(self) -> int:
        """How many different data sets arrived under this UID."""
        return len({v.content_id for v in self.versions})


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
