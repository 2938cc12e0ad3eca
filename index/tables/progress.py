"""What the index file records about itself: its schema, its archive and rules, and how far each log is in it.

Rule: it is written in the same transaction as the rows that it covers, so it never claims more than the file holds.
Records that could not be read count as applied, and are listed until they are (`index.tables.skipped`).
"""

from __future__ import annotations

from typing import Final

from coffer.archive.format.entry import OWN_LOG, LogId, RecordId, Tip
from coffer.index.backends.row_store import Change, Moment
from coffer.index.tables.applied import AppliedLogs, Mark
from coffer.index.tables.rows import SCHEMA, Version
from coffer.index.tables.sealed_rows import Tables
from coffer.index.tables.skipped import Run, Skipped
from coffer.keys.errors import FormatError, IntegrityError

__all__ = ["Progress", "marks_in", "skipped_in"]

_SCHEMA_KEY, _ARCHIVE_KEY, _APPLIED_KEY, _RULES_KEY = b"schema", b"archive", b"applied", b"rules"
_SKIPPED_KEY = b"skipped"
_SCHEMA: Final = SCHEMA.to_bytes(4, "big")


def marks_in(rows: Moment) -> dict[LogId, Mark]:
    """Return how far each log is in the index, by log. Raises FormatError."""
    return AppliedLogs.decode(rows.get("meta", _APPLIED_KEY) or b"").marks


def skipped_in(rows: Moment) -> Skipped:
    """Return the records whose objects the index lacks. Raises FormatError."""
    return Skipped.decode(rows.get("meta", _SKIPPED_KEY) or b"")


class Progress:
    """The `meta` rows of an index. Thread-safe; `rows` is called with the tables' lock held."""

    def __init__(self, tables: Tables, archive_id: bytes, rules_digest: bytes) -> None:
        self._tables = tables
        self._archive_id = archive_id
        self._rules_digest = rules_digest
        self._applied = AppliedLogs()
        self._skipped = Skipped()
        self._written_skipped = b""

    def is_usable(self, *, readonly: bool) -> bool:
        """Whether the file was made by this schema under these rules; otherwise it must be emptied.

        Raises IntegrityError if it belongs to another archive and, with `readonly`, FormatError instead of False.
        """
        get = self._tables.store.get
        archive, schema = get("meta", _ARCHIVE_KEY), get("meta", _SCHEMA_KEY)
        if archive is not None and archive != self._archive_id:
            raise IntegrityError("the index belongs to another archive", hint="remove the index folder and start again")
        if schema == _SCHEMA:
            if get("meta", _RULES_KEY) == self._rules_digest:
                return True
            if readonly:
                raise FormatError(
                    "the index was made under other [patients] or [versions] than the configuration has now",
                    hint="restart the server, or run `coffer index rebuild`: the index then follows them",
                )
        elif readonly and schema is not None:
            raise FormatError("the index has an unknown schema", hint="start the server once: it rebuilds the index")
        return readonly

    def load(self) -> None:
        """Read from disk how far each log is in the index."""
        self._applied = self._stored()
        self._written_skipped = self._tables.store.get("meta", _SKIPPED_KEY) or b""
        self._skipped = Skipped.decode(self._written_skipped)

    def _stored(self) -> AppliedLogs:
        return AppliedLogs.decode(self._tables.store.get("meta", _APPLIED_KEY) or b"")

    def rows(self) -> list[Change]:
        """The `meta` rows to write together with the rows put until now."""
        made: list[Change] = [
            ("meta", _SCHEMA_KEY, _SCHEMA),
            ("meta", _ARCHIVE_KEY, self._archive_id),
            ("meta", _RULES_KEY, self._rules_digest),
            ("meta", _APPLIED_KEY, self._applied.encode()),
        ]
        skipped = self._skipped.encode()
        if skipped != self._written_skipped:
            made.append(("meta", _SKIPPED_KEY, skipped or None))
            self._written_skipped = skipped
        return made

    @property
    def has_advanced_on_disk(self) -> bool:
        """Whether another process has written more than this one has loaded."""
        applied = self._tables.store.get("meta", _APPLIED_KEY)
        return applied is not None and applied != self._applied.encode()

    def applied(self, version: Version, covers: int, tip: Tip | None) -> None:
        """Count an object's record, the last of `covers` consecutive ones. The caller holds the tables' lock."""
        self._applied.of(version.log).cover(version.seq - covers + 1, covers, version, tip)
        self._skipped.discard(version.id)

    def cover(self, record: RecordId, tip: Tip | None) -> None:
        """Record that a record holds nothing for the index, so that the log's position can pass it."""
        with self._tables.lock:
            self._applied.of(record.log).cover(record.seq, tip=tip)
            self._skipped.discard(record)
        self._tables.wake()

    def mark_skipped(self, record: RecordId) -> None:
        """Record that the object of a record cannot be read now; durable after the next flush.

        The log's position passes it, and `skipped` lists it until it is applied or covered.
        """
        with self._tables.lock:
            self._applied.of(record.log).cover(record.seq)
            self._skipped.add(record)

    def advance(self, tip: Tip) -> None:
        """Record that every record below a log's tip is applied, or holds nothing for the index."""
        with self._tables.lock:
            self._applied.of(tip.log).advance(tip)

    @property
    def applied_seq(self) -> int:
        """The record of the archive's own log up to which nothing is missing, on disk or not; -1: none."""
        return self._applied.of(OWN_LOG).next_seq - 1

    @property
    def stored_seq(self) -> int:
        """The record of the archive's own log up to which nothing is missing on disk; -1: none."""
        return self._stored().of(OWN_LOG).next_seq - 1

    @property
    def marks(self) -> dict[LogId, Mark]:
        """For each log its newest tip below which everything is applied, which shows whether it is still the same."""
        with self._tables.lock:
            return self._applied.marks

    @property
    def skipped(self) -> tuple[Run, ...]:
        """The records whose objects could not be read, as runs."""
        with self._tables.lock:
            return self._skipped.runs

    def skipped_records(self) -> Skipped:
        """As `skipped`, to look records up in."""
        return Skipped(self.skipped)

    @property
    def skipped_objects(self) -> int:
        """How many objects could not be read, and are in no answer."""
        with self._tables.lock:
            return len(self._skipped)
