"""The one writer of the log: what a caller appends together is one group with one sync.

Rule: `append` returns after everything it appended is committed, never before. Where it stays unknown whether a group
was, the writer stops permanently; only reopening, with recovery, continues. So it does where what it reads back before
it signs is not what it appended. It knows no files of the log: those are behind `archive.commit`.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack

from coffer.archive.commit.commit_log import CommitLog, LogEnd, Taken
from coffer.archive.commit.folder_log import FolderLog
from coffer.archive.commit.hashed_entry import HashedEntry, hashed_entry, require_header, size_of
from coffer.archive.commit.held_log import HeldLog, is_undone
from coffer.archive.commit.lost_records import loss_error
from coffer.archive.commit.next_group import next_group
from coffer.archive.commit.overdue import Overdue
from coffer.archive.format import segment
from coffer.archive.format.chain import Chain
from coffer.archive.format.entry import Appended, Entry, Position, Tip
from coffer.archive.format.group import NO_LINEAGE, GroupEnd
from coffer.archive.format.order import UNKNOWN
from coffer.archive.format.record import Kind, record_size
from coffer.archive.format.segment import footer_size
from coffer.archive.repair.tail import signed_claims
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.free_space import FreeSpace
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import last_checkpoint, settle_history
from coffer.archive.tree.checkpoint_publisher import CheckpointPublisher
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.tree.mark import Mark
from coffer.archive.verify.seams import epoch_at
from coffer.keys.disk.lock import Holder
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import (
    CofferError,
    HistoryError,
    IntegrityError,
    UnavailableError,
    UnreadableError,
)
from coffer.keys.lease.epoch_authority import Lease

_LEAST_SPACE = 1 << 20  # with less, not even a small group fits, and the archive must not report that it is ready
_EVENT_SPACE = 1 << 20  # what a change of the keys takes in keyring, log, tiles and index


def _require_signer(folder: ArchiveFolder, signers: Collection[str]) -> None:
    if signers and read_key_history(folder).current not in signers:
        raise HistoryError(
            "the keyring's signing key is not the one that signs now: one of the two is from before a rotation",
            hint="put the newest keyring back, or the newest checkpoints/endorsements; see coffer recover show",
        )


def _nothing_stored(cause: CofferError) -> UnavailableError:
    refusal = UnavailableError(f"nothing is stored: {cause}", hint=cause.hint())
    refusal.__cause__ = cause
    return refusal


class LogWriter:
    """Appends records for many threads. One per archive; the caller holds the writer's lock."""

    def __init__(
        self,
        folder: ArchiveFolder,
        *,
        sign: Callable[[bytes], bytes],
        now_ms: Callable[[], int],
        segment_bytes: int = 1 << 30,
        reserve_bytes: int = 0,
        calls: Syscalls = SYSTEM,
        remembered: Checkpoint | None = None,
        outside: Mark | None = None,
        lineage: bytes = NO_LINEAGE,
        signers: Collection[str] = (),
        objection: Callable[[], IntegrityError | None] = lambda: None,
        may_refuse: bool = False,
        log: CommitLog | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Take the log, which finds its end and sets a torn tail aside, and be ready to append.

        `sign` makes the tag of a group from its statement, with the key that signs now (`hand_over` replaces it).
        `remembered` is the last checkpoint that the keyring remembers, `outside` the mark outside the folder, if there
        is one, `lineage` (16 bytes) that of the groups until `begin_lineage`, `signers` the verifier keys it can sign
        with (empty: not checked), `objection` any other reason not to write, asked once nothing speaks against the log
        itself. `log` is where groups are committed (None: in the folder), `lease` the one that allows it (None: no
        other process writes). Raises IntegrityError if the log is damaged; HistoryError if it is older than, or differs
        from, what was signed, or if another key signs now; the objection; UnreadableError if the medium cannot be read.
        Then nothing was changed. With `may_refuse` nothing is raised, but every append raises UnavailableError with
        that cause, so that the archive can still be read."""
        self._folder = folder
        self._calls = calls
        self._sign = sign
        self.lineage = lineage
        self._now_ms = now_ms
        self._segment_bytes = segment_bytes
        self._space = FreeSpace(folder.path, reserve_bytes)
        self._commit_lock, self._sign_lock = threading.Lock(), threading.Lock()
        self._failure: CofferError | None = None
        self._overdue = Overdue(time.monotonic)
        self._publisher = CheckpointPublisher(folder, calls)
        self._log = HeldLog(log or FolderLog(folder, now_ms, calls), lease or Lease(folder.lock.name, 0, Holder()))
        self._taken = Taken(LogEnd(Chain.start(folder.archive_id), 0, 0, 0, 0), 0, 0)
        self.refusal: IntegrityError | UnreadableError | None = None
        self._loss: IntegrityError | None = None
        self._signed_epoch = 0

        def accept(_: LogEnd) -> None:
            if (found := objection()) is not None:
                raise found
            self._signed_epoch = epoch_at(folder, self.signed_size)

        reached = None if outside is None else outside.checkpoint
        try:
            self._taken = self._log.take(lambda: self._told(remembered, reached, signers), accept, outside)
        except (IntegrityError, UnreadableError) as error:
            if not may_refuse:
                raise
            self.refusal = error
            self._failure = _nothing_stored(error)
        self._end = self._read_back = self._taken.end  # opening read what is not signed; what follows is read back

    def _told(
        self, remembered: Checkpoint | None, outside: Checkpoint | None, signers: Collection[str]
    ) -> Sequence[Checkpoint]:
        """What is signed of the log, after making the end of the history durable, which an earlier writer left."""
        settle_history(self._folder, self._calls)
        signed = self._publisher.signed = read_checkpoint(self._folder)
        claims = signed_claims(signed, remembered, last_checkpoint(self._folder), outside)
        _require_signer(self._folder, signers)
        self._publisher.newest = claims[-1] if claims else self._publisher.newest
        return claims

    @property
    def cut_bytes(self) -> int:
        """The bytes of a torn tail that opening moved to lost+found."""
        return self._taken.cut_bytes

    @property
    def cut_records(self) -> int:
        """The number of records with an intact header among them."""
        return self._taken.cut_records

    @property
    def next_seq(self) -> int:
        """The number of the next record, which is the number of records so far."""
        return self._end.chain.next_seq

    @property
    def last_ms(self) -> int | None:
        """The time of the last record, in ms since 1970 UTC; None if there is none, or none is known."""
        return None if (last := self._end.chain.order.time_ms) == UNKNOWN else last

    @property
    def epoch(self) -> int:
        """The epoch of the log that is written now."""
        return self._end.epoch

    @property
    def tip(self) -> Tip:
        """The end of the log as of the last successful append: everything below it is durable."""
        return self._end.tip

    @property
    def signed_size(self) -> int:
        """The number of records under the last signed checkpoint."""
        return self._publisher.signed_size

    @property
    def signed_epoch(self) -> int:
        """The epoch of the log at the last record under that checkpoint."""
        return self._signed_epoch

    @property
    def signed(self) -> Checkpoint | None:
        """The last checkpoint; None if the log refuses and it is not known."""
        return self._publisher.signed

    def append(self, entries: Sequence[Entry]) -> list[Appended]:
        """Append entries in order, together; durable on return. Returns position and time of each, in order.

        They are one group with one sync; callers with many entries combine them (`server.engine.commit`). Raises
        UnavailableError if they do not fit (objects: above the reserve) or a SealedFile is not what it states: then
        nothing was appended, and the caller may retry. Raises it too if it is unknown whether they were appended, or
        was before: then nothing is acknowledged until the log is opened again. What is hashed is what is written:
        bodies in memory must not change before this returns, a file may.
        """
        if not entries:
            return []
        for entry in entries:
            require_header(entry)
        with ExitStack() as files:
            hashed = [
                hashed_entry(entry, files) for entry in entries
            ]  # not under the lock, which is never held so long
            with self._commit_lock:
                self._require_running()
                if any(entry.kind == Kind.OBJECT for entry in entries):
                    self._space.require(max(self._needed(entries), _LEAST_SPACE))
                else:
                    self._space.require(self._needed(entries), into_reserve=True)
                return self._commit(hashed)

    def begin_epoch(self, body: bytes) -> Position:
        """Begin a new epoch of the log: a segment whose first record has this body, which is not sealed (FORMAT.md).

        Its time is the clock's, even if that is earlier than the record before. Durable on return. Raises as `append`.
        """
        body_hash = hashlib.sha256(body).digest()
        entry = Entry(Kind.LOG_EPOCH, bytes(16), 0, body_hash, body)
        with self._commit_lock:
            self._require_running()
            size = record_size(len(body)) + footer_size(self._end.records) + segment.HEADER.size
            self._space.require(size, into_reserve=True)
            return self._commit([HashedEntry(entry, body, len(body), body_hash)], begins_epoch=True)[0].position

    def begin_lineage(self, lineage: bytes) -> None:
        """Tag the groups from here on under this lineage (16 bytes). The mark outside the folder, if there is one,
        durably has it by then, and names every record that is there: what is behind those is held against it."""
        with self._commit_lock:
            self.lineage = lineage

    def _tag(self, end: GroupEnd) -> bytes:
        return end.tag(self.lineage, self._sign)

    def sign_within(self, seconds: float) -> None:
        """From now on let objects be refused while a record has waited longer than that for a checkpoint. For a writer
        that signs at its own times: others sign when they are done."""
        self._overdue.limit(seconds)

    def unsigned_seconds(self) -> float:
        """For how long the oldest record that no checkpoint covers has waited for one; 0 if there is none."""
        return self._overdue.seconds()

    def not_signed(self, error: CofferError) -> None:
        """Note why the last attempt to sign did not succeed, for whoever is refused because of it."""
        self._overdue.failed(error)

    def require_writable(self) -> None:
        """Return if objects can be expected to be accepted. Raises UnavailableError: stopped, no checkpoint is signed,
        or the volume is full."""
        self._require_running()
        self._overdue.require()
        self._space.require(_LEAST_SPACE)

    def accepts_events(self) -> bool:
        """Whether the volume has space for events, which may use its reserve."""
        try:
            self._space.require(_EVENT_SPACE, into_reserve=True)
        except UnavailableError:
            return False
        return True

    def _require_running(self) -> None:
        if self.refusal is not None or self._loss is not None:
            self.require_stable()
        if self._failure is not None:
            raise UnavailableError(
                f"the log stopped after a failed write: {self._failure}",
                hint="restart Coffer: opening runs recovery and checks what is durable",
            ) from self._failure

    def checkpoint(
        self, sign: Callable[[bytes], bytes], remember: Callable[[bytes], None] | None = None
    ) -> Checkpoint | None:
        """Sign the log as it is and publish the note, durable on return; None if the last one covers all records.

        `sign` makes a signed note of a checkpoint's text; `remember` is called with it when it is in the history and
        before it is the latest. Appends continue meanwhile. What was appended since the last one is read back first:
        where it is no longer there as it was written, this raises IntegrityError, keeps what stands there, and the
        writer stops. Raises HistoryError, and signs nothing, if the log on disk does not extend the last signed
        checkpoint; UnavailableError.
        """
        with self._sign_lock:
            with self._commit_lock:
                self.require_stable()
                end, begun = self._end, self._overdue.begun()
            self._require_there(end)
            done = self._publisher.publish(self._tree_head(end), sign, remember)
            self._signed_epoch = end.epoch
            with self._commit_lock:
                self._overdue.signed(begun, is_all=self._end is end)
            return done

    def hand_over(
        self,
        sign: Callable[[bytes], bytes],
        remember: Callable[[bytes], None],
        endorse: Callable[[Checkpoint], Callable[[bytes], bytes]],
    ) -> None:
        """Let another key sign from here on: sign the last checkpoint with the old one, call `endorse` with it, durable
        on its return, and tag the groups after it with what that returns. Appends wait meanwhile: no group may end
        behind that checkpoint under the old key. Raises as `checkpoint`."""
        with self._sign_lock, self._commit_lock:
            self.require_stable()
            self._require_there(self._end)
            last, begun = self._tree_head(self._end), self._overdue.begun()
            self._publisher.publish(last, sign, remember)
            self._signed_epoch = self._end.epoch
            self._overdue.signed(begun, is_all=True)
            self._sign = endorse(last)

    def _require_there(self, end: LogEnd) -> None:
        """Read back what was appended since the last call, up to `end`. Raises IntegrityError, and stops the writer, if
        it is not there as it was appended."""
        begin = self._read_back
        loss = None if begin.chain.next_seq == end.chain.next_seq else self._log.lost(begin, end)
        if loss is not None:
            self._loss = loss_error(self._folder, loss, begin, end, now_ms=self._now_ms(), calls=self._calls)
            self._failure = _nothing_stored(self._loss)
            raise self._loss
        self._read_back = end

    def _tree_head(self, end: LogEnd) -> Checkpoint:
        return Checkpoint(self._folder.origin, end.chain.tree.size, end.chain.tree.root())

    def require_stable(self) -> None:
        """Raise UnavailableError if, after a failed write, it is unknown what is durable."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # the traceback would grow with every raise

    def close(self) -> None:
        """Let go of the log. Everything acknowledged is already durable."""
        self._log.close()

    def _needed(self, entries: Sequence[Entry]) -> int:
        """The bytes that the entries take, with footer and next header if they begin a segment."""
        size = sum(map(size_of, entries))
        if not self._is_full(size, len(entries)):
            return size
        return size + footer_size(self._end.records) + segment.HEADER.size

    def _is_full(self, size: int, count: int) -> bool:
        """Whether the open segment has no space for `count` more records of `size` bytes in total. An empty segment
        always has."""
        is_long = self._end.offset + size > self._segment_bytes
        return self._end.records > 0 and (is_long or self._end.records + count > segment.MOST_RECORDS)

    def _commit(self, entries: Sequence[HashedEntry], *, begins_epoch: bool = False) -> list[Appended]:
        """Commit a group in one segment. Unless certainly nothing was appended, an error stops the writer for good; so
        does any at the beginning of an epoch, where a segment may wait for its first record."""
        try:
            if begins_epoch:
                self._end = self._log.seal(self._end, self._end.epoch + 1)
            elif self._is_full(sum(record_size(entry.length) for entry in entries), len(entries)):
                self._end = self._log.seal(self._end)
            group, done = next_group(self._folder.archive_id, self._end, entries, self._now_ms, self._tag)
            self._end = self._log.append(self._end, group)
            self._overdue.appended()
        except BaseException as error:
            if is_undone(error) and not begins_epoch:
                raise
            self._failure = error if isinstance(error, CofferError) else UnavailableError(f"the log stopped: {error!r}")
            if self._failure is error or not isinstance(error, Exception):
                raise
            raise self._failure from error
        return done
