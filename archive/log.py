"""The one writer of the log: what a caller appends together is one group with one sync.

Rule: `append` returns after fdatasync of everything it appended, never before. A failed write or sync stops the writer
permanently; only reopening, with recovery, continues.
"""

import hashlib
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack

from coffer.archive.format import segment
from coffer.archive.format.chain import Chain
from coffer.archive.format.entry import OWN_LOG, Appended, Entry, Position, SealedFile, Tip
from coffer.archive.format.group import GroupEnd
from coffer.archive.format.merkle import EMPTY_ROOT, leaf_hash
from coffer.archive.format.order import UNKNOWN
from coffer.archive.format.record import NO_TAG, Kind, RecordHeader, record_size, trailer
from coffer.archive.format.segment import Footer, SegmentHeader, footer_size
from coffer.archive.repair.tail import Tail, cut, read_tail, settle_end, signed_claims
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.free_space import FreeSpace
from coffer.archive.store.sealed_file import SourceError, opened, pieces
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import last_checkpoint, publish, settle_history
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.tree.tile_writer import TileWriter
from coffer.keys.buffer import Buffer
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import CofferError, HistoryError, IntegrityError, UnavailableError, UnreadableError

_LEAST_SPACE = 1 << 20  # with less, not even a small group fits, and the archive must not report that it is ready
_EVENT_SPACE = 1 << 20  # what a change of the keys takes in keyring, log, tiles and index


def _length(body: Buffer | SealedFile) -> int:
    return body.length if isinstance(body, SealedFile) else memoryview(body).nbytes


def _hash(entry: Entry) -> bytes:
    return entry.body.sha256 if isinstance(entry.body, SealedFile) else hashlib.sha256(entry.body).digest()


def _require_header(entry: Entry) -> None:
    """Raise ValueError for values that no header can hold: checked here, they fail the caller and not the log."""
    numbers = ((entry.kind, 16), (entry.flags, 32), (entry.least_ms, 64))
    sizes_fit = (len(entry.study_key_id), len(entry.content_id)) == (16, 32)
    sizes_fit &= not isinstance(entry.body, SealedFile) or (entry.body.length >= 0 and len(entry.body.sha256) == 32)
    if not sizes_fit or any(not 0 <= number < 1 << bits for number, bits in numbers):
        raise ValueError("the entry does not fit a record header")


def _require_signer(folder: ArchiveFolder, signers: Collection[str]) -> None:
    if signers and read_key_history(folder).current not in signers:
        raise HistoryError(
            "the keyring's signing key is not the one that signs now: one of the two is from before a rotation",
            hint="put the newest keyring back, or the newest checkpoints/endorsements; see coffer recover show",
        )


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
        signers: Collection[str] = (),
        objection: IntegrityError | None = None,
        may_refuse: bool = False,
    ) -> None:
        """Find the end of the log, cut a torn tail, and be ready to append.

        `sign` makes the tag of a group from its statement, with the key that signs now (`hand_over` replaces it).
        `remembered` is the last checkpoint that the keyring remembers, `signers` the verifier keys it can sign with
        (empty: not checked), `objection` any other reason not to write. Raises IntegrityError if the log is damaged;
        HistoryError if it is older than, or differs from, what was signed, or if another key signs now; the objection;
        UnreadableError if the medium cannot be read. Then nothing was changed. With `may_refuse` nothing is raised, but
        every append raises UnavailableError with that cause, so that the archive can still be read.
        """
        self._folder = folder
        self._sign = sign
        self._now_ms = now_ms
        self._calls = calls
        self._segment_bytes = segment_bytes
        self._space = FreeSpace(folder.path, reserve_bytes)
        self._commit_lock = threading.Lock()
        self._failure: CofferError | None = None
        self._sign_lock = threading.Lock()
        self._signed: Checkpoint | None = None
        self._is_published = True  # False while the publication of a checkpoint is unfinished or failed
        self._newest = Checkpoint(folder.origin, 0, EMPTY_ROOT)  # the newest that was signed, published or not
        self._tile_writer = TileWriter(folder, calls)
        self._tail = Tail(Chain.start(folder.archive_id), 0, [], 0)
        self._tip = self._end()
        self.refusal: IntegrityError | UnreadableError | None = None
        try:
            settle_end(folder, calls)
            self._signed = read_checkpoint(folder)
            claims = signed_claims(self._signed, remembered, last_checkpoint(folder))
            _require_signer(folder, signers)
            tail = read_tail(folder, claims)
            if objection is not None:
                raise objection
            self._tail = tail
            self._newest = claims[-1] if claims else self._newest
            cut(folder, self._tail, now_ms, calls)
            self._file = self._open_segment()
            self._tip = self._end()
        except (IntegrityError, UnreadableError) as error:
            if not may_refuse:
                raise
            self.refusal = error
            self._failure = UnavailableError(f"nothing is stored: {error}", hint=error.hint())

    @property
    def cut_bytes(self) -> int:
        """The bytes of a torn tail that opening moved to lost+found."""
        return 0 if self._tail.is_room else self._tail.cut_bytes

    @property
    def cut_records(self) -> int:
        """The number of records with an intact header among them."""
        return self._tail.cut_records

    @property
    def next_seq(self) -> int:
        """The number of the next record, which is the number of records so far."""
        return self._tail.chain.next_seq

    @property
    def tip(self) -> Tip:
        """The end of the log as of the last successful append: everything below it is durable."""
        return self._tip

    @property
    def signed_size(self) -> int:
        """The number of records under the last signed checkpoint."""
        return self._signed.size if self._signed else 0

    def append(self, entries: Sequence[Entry]) -> list[Appended]:
        """Append entries in order, together; durable on return. Returns position and time of each, in order.

        They are one group with one fdatasync; callers with many entries combine them (`server.engine.commit`). Raises
        UnavailableError if they do not fit (objects: above the reserve) or a SealedFile is not what it states: then
        nothing was written, and the caller may retry. Raises it too if a write or sync fails or failed before: then
        nothing is acknowledged until the log is opened again. What is hashed is what is written: bodies in memory must
        not change before this returns, a file may.
        """
        if not entries:
            return []
        for entry in entries:
            _require_header(entry)
        with ExitStack() as stack:
            files = [
                stack.enter_context(opened(body.path, body.length)) if isinstance(body, SealedFile) else -1
                for body in (entry.body for entry in entries)
            ]
            hashes = [_hash(entry) for entry in entries]  # before taking the lock, which is never held while hashing
            with self._commit_lock:
                self._require_running()
                if any(entry.kind == Kind.OBJECT for entry in entries):
                    self._space.require(max(self._needed(entries), _LEAST_SPACE))
                else:
                    self._space.require(self._needed(entries), into_reserve=True)
                return self._commit(entries, hashes, files)

    def begin_epoch(self, body: bytes) -> Position:
        """Begin a new epoch of the log: a segment whose first record has this body, which is not sealed (FORMAT.md).

        Its time is the clock's, even if that is earlier than the record before. Durable on return. Raises as `append`.
        """
        entry = Entry(Kind.LOG_EPOCH, bytes(16), 0, hashlib.sha256(body).digest(), body)
        with self._commit_lock:
            self._require_running()
            size = record_size(len(body)) + footer_size(len(self._tail.offsets)) + segment.HEADER.size
            self._space.require(size, into_reserve=True)
            return self._commit([entry], [entry.content_id], [-1])[0].position

    def require_writable(self) -> None:
        """Return if objects can be expected to be accepted. Raises UnavailableError: stopped, or the volume is full."""
        self._require_running()
        self._space.require(_LEAST_SPACE)

    def accepts_events(self) -> bool:
        """Whether the volume has space for events, which may use its reserve."""
        try:
            self._space.require(_EVENT_SPACE, into_reserve=True)
        except UnavailableError:
            return False
        return True

    def _require_running(self) -> None:
        if self.refusal is not None:
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
        before it is the latest. Appends continue meanwhile. Raises HistoryError, and signs nothing, if the log on disk
        does not extend the last signed checkpoint; UnavailableError.
        """
        with self._sign_lock:
            with self._commit_lock:
                self.require_stable()
                made = self._tree_head()
            return self._publish(made, sign, remember)

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
            last = self._tree_head()
            self._publish(last, sign, remember)
            self._sign = endorse(last)

    def _tree_head(self) -> Checkpoint:
        tree = self._tail.chain.tree
        return Checkpoint(self._folder.origin, tree.size, tree.root())

    def _publish(
        self, made: Checkpoint, sign: Callable[[bytes], bytes], remember: Callable[[bytes], None] | None
    ) -> Checkpoint | None:
        if self.signed_size == made.size:
            return None
        self._tile_writer.extend(self._newest, made)
        if not self._is_published:  # a sync of the history may have failed: the page cache cannot be trusted
            settle_history(self._folder, self._calls)
        self._is_published = False
        publish(self._folder, sign(made.serialize()), remember, self._calls)
        self._is_published = True
        self._tile_writer.tidy(self._newest, made)
        self._signed = self._newest = made
        return made

    def require_stable(self) -> None:
        """Raise UnavailableError if, after a failed write, it is unknown what is durable."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # the traceback would grow with every raise

    def close(self) -> None:
        """Close the open segment. Everything acknowledged is already durable."""
        if self.refusal is None:
            self._file.close()

    def _needed(self, entries: Sequence[Entry]) -> int:
        """The bytes that the entries take, with footer and next header if they begin a segment."""
        size = self._size(entries)
        if not self._is_full(size, len(entries)):
            return size
        return size + footer_size(len(self._tail.offsets)) + segment.HEADER.size

    @staticmethod
    def _size(entries: Sequence[Entry]) -> int:
        return sum(record_size(_length(entry.body)) for entry in entries)

    def _is_full(self, size: int, count: int) -> bool:
        """Whether the open segment has no space for `count` more records of `size` bytes in total. An empty segment
        always has."""
        records = len(self._tail.offsets)
        is_long = self._file.size + size > self._segment_bytes
        return records > 0 and (is_long or records + count > segment.MOST_RECORDS)

    def _commit(self, entries: Sequence[Entry], hashes: list[bytes], files: list[int]) -> list[Appended]:
        try:
            return self._write_group(entries, hashes, files)
        except SourceError:
            raise  # the append was undone
        except BaseException as error:
            # Whatever went wrong, the file no longer ends where the chain does: only recovery may continue.
            stopped = error if isinstance(error, CofferError) else UnavailableError(f"the log stopped: {error!r}")
            self._failure = stopped
            if not isinstance(error, Exception):
                raise
            raise stopped from error

    def _write_group(self, entries: Sequence[Entry], hashes: list[bytes], files: list[int]) -> list[Appended]:
        """Write and sync a group in one segment; if a file is no longer what it was, undo everything and raise
        SourceError."""
        if entries[0].kind == Kind.LOG_EPOCH:
            self._roll(epoch=self._tail.epoch + 1)
            self._tail.chain.order.time_ms = UNKNOWN
        elif self._is_full(self._size(entries), len(entries)):
            self._roll(epoch=self._tail.epoch)
        end, count, before = self._file.size, len(self._tail.offsets), self._tail.chain.copy()
        first, last = before.next_seq, len(entries) - 1
        try:
            places = [
                self._write(entry, body_hash, file, first, is_last=at == last)
                for at, (entry, body_hash, file) in enumerate(zip(entries, hashes, files, strict=True))
            ]
        except SourceError:
            self._file.truncate(end)
            del self._tail.offsets[count:]
            self._tail.chain = before
            raise
        self._file.sync()
        self._tip = self._end()
        return places

    def _end(self) -> Tip:
        return Tip(OWN_LOG, self._tail.chain.next_seq, self._tail.chain.head)

    def _write(self, entry: Entry, body_hash: bytes, file: int, group: int, *, is_last: bool) -> Appended:
        body = entry.body
        length = _length(body)
        chain, at = self._tail.chain, self._file.size
        header = RecordHeader(
            kind=entry.kind,
            seq=chain.next_seq,
            time_ms=max(chain.order.time_ms + 1, self._now_ms(), entry.least_ms),
            study_key_id=entry.study_key_id,
            flags=entry.flags,
            body_len=length,
            content_id=entry.content_id,
            body_sha256=body_hash,
            prev_leaf=chain.head,
            group=group,
        ).serialize()
        tag = self._tag(group, header) if is_last else NO_TAG
        if isinstance(body, SealedFile):
            self._file.write_all([header])
            for piece in pieces(file, length, body_hash):
                self._file.write_all([piece])
            self._file.write_all([trailer(length, tag)])
        else:
            self._file.write_all([header, body, trailer(length, tag)])
        position = Position(OWN_LOG, chain.next_seq, self._tail.segment, at, length)
        self._tail.offsets.append(at)
        chain.follow(header, tag)
        return Appended(position, chain.order.time_ms)

    def _tag(self, group: int, header: bytes) -> bytes:
        """The tag of a group that ends with this record."""
        archive_id, size = self._folder.archive_id, self._tail.chain.next_seq + 1
        return self._sign(GroupEnd(archive_id, 0, self._tail.epoch, group, size, leaf_hash(header)).statement())

    def _roll(self, epoch: int) -> None:
        """Seal the open segment: write and sync its footer, then create the next segment, of this epoch.

        The records are durable before: an intact footer proves it. A segment without records is created again.
        """
        chain = self._tail.chain
        self._tail.epoch = epoch
        if not self._tail.offsets:
            self._file.close()
            self._tail.end = 0
            self._file = self._open_segment()
            return
        footer = Footer(tuple(self._tail.offsets), chain.head, chain.tree.size, chain.tree.edge, chain.order.time_ms)
        self._file.write_all([footer.serialize()])
        self._file.sync()
        self._file.close()
        self._tail.is_sealed = True
        self._file = self._open_segment()

    def _open_segment(self) -> AppendFile:
        tail = self._tail
        if not tail.is_sealed and tail.end > 0:
            return self._folder.segment_files.end_of(tail.segment, self._calls)
        tail.segment += tail.is_sealed
        tail.offsets.clear()
        header = SegmentHeader(
            self._folder.archive_id, tail.segment, tail.chain.next_seq, tail.chain.head, self._now_ms(), 0, tail.epoch
        )
        begun = self._folder.segment_files.begin(tail.segment, header.serialize(), self._calls)
        tail.is_sealed, tail.end = False, segment.HEADER.size
        return begun
