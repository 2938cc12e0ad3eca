"""Bring an index up to date with the log: from where it stopped, or from nothing.

Rule: the log decides. An index that is ahead of it, or that was made from another history, is emptied first. An object
whose key is destroyed is left out. One that cannot be read or opened is skipped, because the others must still be
found; the index remembers it, and it is tried again. This module opens no files: records and bodies come from the
caller.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from coffer.archive.format.entry import OWN_LOG, Position, Tip
from coffer.archive.format.merkle import leaf_hash
from coffer.archive.format.record import Kind, RecordHeader
from coffer.index.dicom.elements import HeaderLimits
from coffer.index.dicom.headers import scan
from coffer.index.index import Index
from coffer.index.instance.entry import Identity, extract
from coffer.index.instance.object_meta import ObjectMeta
from coffer.index.keyed_check import LogRecords, belongs_to
from coffer.index.tables.rows import Version
from coffer.keys.errors import IndexAlteredError, IntegrityError, KeyUnavailableError, ShreddedError, UnreadableError

__all__ = ["Body", "CatchUp", "OpenBody", "apply_object", "catch_up", "rebuild", "retry"]


class Body(Protocol):
    """An opened object: its meta, and any part of its data set, verified."""

    @property
    def meta(self) -> bytes:
        """The encoded `ObjectMeta`."""

    @property
    def length(self) -> int:
        """The length of the data set in bytes."""

    def read(self, start: int, stop: int) -> bytes:
        """Return data set bytes [start, stop). Raises IntegrityError for altered ones."""


OpenBody = Callable[[Position, RecordHeader], AbstractContextManager[Body]]


@dataclass(slots=True)
class CatchUp:
    """What a catch-up did: the number of objects applied and of those whose key was destroyed; the seq of each that is
    damaged or cannot be read now, and of each whose key is missing. The last two are skipped and tried again."""

    applied: int = 0
    shredded: int = 0
    damaged: list[int] = field(default_factory=list)
    keyless: list[int] = field(default_factory=list)
    emptied: bool = False  # the index did not belong to this log


def catch_up(
    index: Index,
    log: LogRecords,
    open_body: OpenBody,
    limits: HeaderLimits | None = None,
    *,
    flush: bool = True,
    contradicted: Callable[[], None] = lambda: None,
) -> CatchUp:
    """Apply every record that the index lacks; durable on return. Idempotent, and may be interrupted anywhere.

    `contradicted` is called before an index that does not belong to this log is emptied: it is evidence. Without
    `flush`, as for an index that is open for reading, only this process sees what was applied. Raises the errors of
    `log.records`, and of `contradicted`: then nothing was emptied.
    """
    report = CatchUp()
    if not belongs_to(index.marks.get(OWN_LOG), log):
        contradicted()
        index.clear()
        report.emptied = True
    last: Tip | None = None
    for position, header in log.records(index.applied_seq + 1):
        index.advance(Tip(position.log, header.seq, header.prev_leaf))  # in order: all below this one were seen
        _apply_record(index, position, header, open_body, limits, report)
        last = Tip(position.log, header.seq + 1, leaf_hash(header.serialize()))
    if last is not None:
        index.advance(last)
    if flush:
        index.flush()
    return report


def retry(
    index: Index, log: LogRecords, open_body: OpenBody, limits: HeaderLimits | None = None, *, most: int = 1 << 62
) -> CatchUp:
    """Try up to `most` of the skipped records again, the oldest first; durable on return."""
    report = CatchUp()
    for run in index.skipped:
        for position, header in log.records(run.first):
            if header.seq > run.last or most <= 0:
                break
            _apply_record(index, position, header, open_body, limits, report)
            most -= 1
    if report.applied or report.shredded:
        index.flush()
    return report


def rebuild(index: Index, log: LogRecords, open_body: OpenBody, limits: HeaderLimits | None = None) -> CatchUp:
    """Empty the index and fill it from the whole log; durable on return. Its answers are the same afterwards."""
    index.clear()
    return catch_up(index, log, open_body, limits)


def _apply_record(  # noqa: PLR0917  # what a record is applied with
    index: Index,
    position: Position,
    header: RecordHeader,
    open_body: OpenBody,
    limits: HeaderLimits | None,
    report: CatchUp,
) -> None:
    if header.kind != Kind.OBJECT:
        index.cover(position.id)
        return
    try:
        apply_object(index, position, header, open_body, limits)
        report.applied += 1
    except ShreddedError:
        report.shredded += 1
        index.cover(position.id)
    except KeyUnavailableError:
        report.keyless.append(header.seq)
        index.mark_skipped(position.id)
    except IndexAlteredError:
        raise  # it is the index, not the record, that is not as it was written
    except (IntegrityError, UnreadableError):
        report.damaged.append(header.seq)
        index.mark_skipped(position.id)


def apply_object(
    index: Index, position: Position, header: RecordHeader, open_body: OpenBody, limits: HeaderLimits | None
) -> None:
    """Open one object's record and apply it. Raises the errors of `open_body`."""
    with open_body(position, header) as body:
        meta = ObjectMeta.decode(body.meta)
        scanned = scan(body.read, body.length, meta.transfer_syntax, limits)
        entry = extract(scanned, Identity(meta.sop_class, meta.sop_instance))
        version = Version.of(
            position,
            header.time_ms,
            header.content_id,
            meta.transfer_syntax,
            body.length,
            meta.received_ms,
            header.flags,
            meta.source_ae,
            meta.order,
            meta.previous or b"",
            meta.original or b"",
        )
    index.apply(version, header.study_key_id, entry)
