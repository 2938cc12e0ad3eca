"""Bring the index up to date with its log: for the writer, which owns it, and for a command that reads beside it.

Rule: an index that lacks stored objects never answers silently. Beside a writer, a reader waits for what the writer
has committed; without a writer, as after a crash, it reads the missing records from the log into memory and changes
nothing on disk. What would take too long is refused.
"""

import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from coffer.archive.body.sealed_body import BodyReader
from coffer.archive.format.entry import OWN_LOG, Position
from coffer.archive.format.record import RecordHeader
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import writer
from coffer.index import rebuild
from coffer.index.dicom.elements import HeaderLimits
from coffer.index.index import Index
from coffer.index.keyed_check import belongs_to, check_with_key
from coffer.index.keyless_check import check_index
from coffer.index.rebuild import CatchUp, OpenBody
from coffer.keys.clock import clock_ms
from coffer.keys.disk import durable, opening
from coffer.keys.errors import IndexAlteredError, IntegrityError, ShreddedError, UnavailableError
from coffer.keys.keyring import rekey
from coffer.keys.keyring.keyring import Keyring
from coffer.server.engine.bodies import Bodies
from coffer.server.observe.logs import get_logger

__all__ = ["IndexFeed", "level", "set_aside"]

_log = get_logger()
_MOST_RECORDS: Final = 20_000  # some ten seconds
_PATIENCE_SECONDS: Final = 5.0  # a server writes its index every second
_POLL_SECONDS: Final = 0.05
_KEPT: Final = "index-"  # begins the names of indexes in lost+found
_ALTERED: Final = f"{_KEPT}altered-"
_HINT: Final = (
    "coffer recover show tells whether the log lost something; if not: start the server, or run coffer index rebuild"
)


def set_aside(folder: ArchiveFolder, keyring: Keyring, log: LogReader) -> None:
    """Make room for an index that is made anew; durable on return. An old one that was altered, or contradicts the log,
    is evidence, and is kept in lost+found. Raises UnavailableError."""
    data = folder.index / "data.mdb"
    found = opening.status(data)
    if found is not None and stat.S_ISREG(found.st_mode) and (what := _wrong(folder, keyring, log)) is not None:
        kept = durable.spare(folder.lost_and_found / f"{_ALTERED}{clock_ms()}.mdb")
        durable.move(data, kept)
        _log.error("the index that is replaced was altered", name="index.set_aside", cause=what, kept=kept.name)
    durable.remove_folder(folder.index)


def _wrong(folder: ArchiveFolder, keyring: Keyring, log: LogReader) -> str | None:
    try:
        return check_index(folder.index, folder.archive_id) or check_with_key(folder.index, keyring, log)
    except IntegrityError as error:
        return str(error)


class IndexFeed:
    """The only way from an archive's log into its index. A record that a rekey replaced by another is skipped."""

    def __init__(
        self,
        keyring: Keyring,
        reader: LogReader,
        bodies: Bodies,
        index: Index,
        limits: HeaderLimits,
        *,
        lost_and_found: Path,
    ) -> None:
        """`limits` bound the headers that are parsed. In `lost_and_found` are indexes that contradicted their log."""
        self.limits = limits
        self._lost_and_found = lost_and_found
        self._keyring = keyring
        self._reader = reader
        self._bodies = bodies
        self._index = index

    def open_record(self, position: Position, header: RecordHeader) -> AbstractContextManager[BodyReader]:
        """The body of an object's record, even of one that a rekey replaced. Raises as `Bodies.open`."""
        return self._bodies.open(header.study_key_id, header.content_id, position)

    @contextmanager
    def _open_counted(self, position: Position, header: RecordHeader) -> Iterator[BodyReader]:
        """As `open_record`, but raises ShreddedError for a record that a rekey replaced (see `keys.keyring.rekey`)."""
        if header.study_key_id in rekey.inactive_keys(self._keyring):
            raise ShreddedError("this object is in another record, under another key")
        with self.open_record(position, header) as body:
            yield body

    def level(self, lock: Path) -> UnavailableError | None:
        """Bring an index open for reading up to date, in memory, beside a possible writer; returns what prevents it,
        or None."""
        return level(self._index, self._reader, self._open_counted, self.limits, lambda: writer(lock) is not None)

    def catch_up(self) -> None:
        """Add what the writer's index lacks; durable on return. One that contradicts the log is kept aside, and made
        anew. Raises IntegrityError, UnavailableError."""
        feed = self._index, self._reader, self._open_counted, self.limits
        _report(rebuild.catch_up(*feed, contradicted=self._keep))

    def _keep(self) -> None:
        """Keep an index that does not belong to its log: it shows that one of the two is not what it was."""
        mark = self._index.marks[OWN_LOG]
        kept = durable.spare(self._lost_and_found / f"{_KEPT}{mark.tip.next_seq}-{mark.tip.head.hex()[:16]}.mdb")
        self._index.copy(kept)
        _log.error(
            "the index knows records that the log does not have",
            name="index.contradicted",
            records=mark.tip.next_seq,
            kept=kept.name,
            remedy="coffer recover show; docs/integrity.md",
        )

    def contradictions(self) -> list[str]:
        """What to look into, for each index that was kept because it contradicted the log."""
        if not opening.is_folder(self._lost_and_found):
            return []
        return [
            f"lost+found/{opening.shown(name)} was altered, or contradicted the log, and the index was made anew:"
            " find out who can write the archive folder, then move it away"
            if name.startswith(_ALTERED)
            else f"lost+found/{opening.shown(name)} knew records that the log does not have, and the index was made"
            " anew: coffer recover show, then move it away"
            for name in opening.names(self._lost_and_found)
            if name.startswith(_KEPT)
        ]

    def catch_up_refused(self) -> UnavailableError | None:
        """As `catch_up`, for a log that must not be written: what prevents it is logged and returned. Nothing is kept
        aside: the log is what is wrong, and its refusal says so."""
        try:
            _report(rebuild.catch_up(self._index, self._reader, self._open_counted, self.limits))
        except IndexAlteredError:
            raise
        except (IntegrityError, UnavailableError) as error:
            what = f"the index lacks records that cannot be read from the log: {error}"
            _log.error(
                "the index lacks records that cannot be read from the log",
                name="index.catch_up_failed",
                cause=str(error),
                remedy=error.hint(),
            )
            return UnavailableError(what, hint=error.hint())
        return None

    def retry(self, most: int) -> CatchUp:
        """Retry at most `most` of the objects that could not be read. Raises CofferError."""
        return rebuild.retry(self._index, self._reader, self._open_counted, self.limits, most=most)

    def rebuild(self, total: int, progress: Callable[[int, int], None]) -> CatchUp:
        """Empty the writer's index and fill it from the log's `total` records; durable on return."""
        done = rebuild.rebuild(self._index, _Counted(self._reader, progress, total), self._open_counted, self.limits)
        progress(total, total)
        _report(done)
        return done


class _Counted:
    """The log's records, reporting how many have been read."""

    def __init__(self, reader: LogReader, progress: Callable[[int, int], None], total: int) -> None:
        self._reader = reader
        self._progress = progress
        self._total = total

    def records(self, from_seq: int) -> Iterator[tuple[Position, RecordHeader]]:
        for position, header in self._reader.records(from_seq):
            yield position, header
            self._progress(position.seq + 1, self._total)


def _report(done: CatchUp) -> None:
    missing = sorted([*done.damaged, *done.keyless])
    if done.applied or missing or done.emptied:
        _log.info(
            "the index caught up with the log", name="index.caught_up", applied=done.applied, emptied=done.emptied
        )
    if missing:
        _log.error("records cannot be opened", name="record.open_failed", count=len(missing), first=missing[0])


def level(
    index: Index, reader: LogReader, open_body: OpenBody, limits: HeaderLimits, is_written: Callable[[], bool]
) -> UnavailableError | None:
    """Bring `index`, which is open for reading, up to date with the log at the time of the call; returns what prevents
    it, or None.

    `is_written` returns whether a process has the archive open for writing now. Raises IndexAlteredError.
    """
    try:
        last = _end(reader, index)
        if not belongs_to(index.marks.get(OWN_LOG), reader) or index.applied_seq < last:
            if is_written() and not _waited(index, last, is_written):
                behind = last - index.stored_seq
                return UnavailableError(
                    f"the index is {behind} records behind the log, and its writer makes no progress",
                    hint="wait and try again: /readyz, coffer status and the server's log show more",
                )
            index.refresh()
        return _fill(index, reader, open_body, limits, last)
    except IndexAlteredError:
        raise
    except (IntegrityError, UnavailableError) as error:
        return UnavailableError(f"records that the index lacks cannot be read from the log: {error}", hint=error.hint())


def _waited(index: Index, last: int, is_written: Callable[[], bool]) -> bool:
    """Whether the writer wrote what was committed, or ended, in time."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while index.stored_seq < last and is_written():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _fill(
    index: Index, reader: LogReader, open_body: OpenBody, limits: HeaderLimits, last: int
) -> UnavailableError | None:
    if not belongs_to(index.marks.get(OWN_LOG), reader):
        return UnavailableError("the index belongs to another state of the log than this one", hint=_HINT)
    behind = last - index.applied_seq
    if behind > _MOST_RECORDS:
        return UnavailableError(f"the index is {behind} records behind the log", hint=_HINT)
    if behind > 0:
        rebuild.catch_up(index, reader, open_body, limits, flush=False)
    return None


def _end(reader: LogReader, index: Index) -> int:
    """The number of the log's last record, or the index's last one if the log has none after it."""
    last = index.applied_seq
    for _, header in reader.records(last + 1):
        last = header.seq
    return last
