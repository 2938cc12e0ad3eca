"""The segments of an archive in its folder, as a store.

Rule: paths and names stay in `segment_files`; here is only the order of the durable steps. A segment is never written
in place: it is staged beside its name, read back from the medium, and then gets the name in one atomic step.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coffer.archive.store.segment_files import SegmentFiles
from coffer.archive.store.segment_store import (
    LogId,
    Receipt,
    SealedSegment,
    SegmentInfo,
    SegmentStore,
    pieces,
    require_log,
    sha256_of,
)
from coffer.archive.store.source import FileSource
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.disk.volume import free_bytes
from coffer.keys.errors import HistoryError, IntegrityError, NotFoundError, UnavailableError, UnreadableError

__all__ = ["FolderSegments"]

_OVERHEAD: Final = 64 << 10  # partly filled blocks and directory entries of a few files
_writing = threading.Lock()  # a staged file has one name: in this process, one at a time


@dataclass(frozen=True, slots=True)
class FolderSegments(SegmentStore):
    """The store over one archive's segment files. A value: two of the same folder are the same store."""

    files: SegmentFiles
    calls: Syscalls = SYSTEM

    def segments(self, log: LogId) -> list[SegmentInfo]:
        """One pass over the folder. What is no regular file has size 0."""
        require_log(log)
        return [SegmentInfo(number, size) for number, size in self.files.sizes().items()]

    def open(self, log: LogId, number: int) -> FileSource:
        """The file, open for reading."""
        require_log(log)
        return self.files.open(number)

    def put(self, sealed: SealedSegment) -> Receipt:
        """`stage`, read back, then link to the name if that is free: durable on return."""
        require_log(sealed.log)
        with _writing:
            if self._has(sealed):
                return sealed.receipt
            with self._staged(sealed) as fresh:
                if not self.files.exists(sealed.number) and self.files.place(sealed.number, fresh, self.calls):
                    return sealed.receipt
                kept = f"{self.files.name(sealed.number)}-refused-{sealed.sha256.hex()[:16]}"
                self.files.keep(fresh, kept, self.calls)
        raise HistoryError(
            f"segment {sealed.number} is there already, and differs from the one that was given",
            hint=f"nothing was changed; the other one is kept as lost+found/{kept}",
        )

    def replace(self, sealed: SealedSegment, kept: str) -> Receipt:
        """`stage`, read back; link the old file to lost+found, fsync of that folder, rename, fsync: durable on return.

        A file that is open stays readable as it was.
        """
        require_log(sealed.log)
        if not self.files.exists(sealed.number) or (not kept and self._is_segment(sealed.number)):
            return self.put(sealed)
        with _writing:
            with suppress(UnreadableError):  # what cannot be read is not these bytes, and is what repairs are for
                if self._has(sealed):
                    return sealed.receipt
            if kept:
                self._require_free(sealed.number, kept)
            with self._staged(sealed) as fresh:
                self.files.install(sealed.number, fresh, kept, self.calls)
        return sealed.receipt

    def was_replaced(self, log: LogId, number: int, kept: str) -> bool:
        """By names and inodes: until the rename, the kept file and the segment are one."""
        require_log(log)
        if not self.files.exists(number) or self.files.is_staged(number):
            return False
        return not kept or (self.files.is_kept(kept) and not self.files.is_same(number, kept))

    def kept_as(self, log: LogId, number: int, wanted: str) -> str:
        """By name, inode, or bytes."""
        require_log(log)
        try:
            self._require_free(number, wanted)
        except (IntegrityError, NotFoundError, UnreadableError):  # HistoryError is one of the first
            return f"{wanted}-{os.urandom(4).hex()}"
        return wanted

    def set_aside(self, log: LogId, number: int, kept: str) -> None:
        """Rename, fsync of both folders."""
        require_log(log)
        with _writing:
            if not self.files.exists(number):
                if self.files.is_kept(kept):
                    return
                raise NotFoundError(f"segment {number} does not exist")
            self._require_free(number, kept)
            self.files.set_aside(number, kept, self.calls)

    def release(self, log: LogId, number: int, proof: Receipt) -> None:
        """Unlink, fsync of the folder."""
        require_log(log)
        with _writing:
            if not self.files.exists(number):
                return
            with self.files.open(number) as source:
                found = Receipt(log, number, source.size, sha256_of(source))
            if found != proof:
                raise HistoryError(f"segment {number} stays: what was proved to lie elsewhere are other bytes")
            if number == max(self.files.sizes()):
                raise HistoryError(f"segment {number} stays: it is the last one of the log")
            self.files.remove(number, self.calls)

    def room(self) -> int | None:
        """What statvfs says of the volume."""
        try:
            return free_bytes(self.files.folder)
        except OSError as error:
            raise UnavailableError(f"the free space of the archive's volume is unknown: {error.strerror}") from error

    def _is_segment(self, number: int) -> bool:
        try:
            self.files.open(number).close()
        except IntegrityError:
            return False
        return True

    def _has(self, sealed: SealedSegment) -> bool:
        """Whether these bytes lie there, durable if they do."""
        if not self.files.exists(sealed.number) or not self._is_segment(sealed.number):
            return False
        self.files.resync(sealed.number, self.calls)
        with self.files.open(sealed.number) as source:
            return source.size == sealed.size and sha256_of(source) == sealed.sha256

    def _require_free(self, number: int, kept: str) -> None:
        """Raise HistoryError if other bytes than the segment's lie in lost+found under this name."""
        if not self.files.is_kept(kept) or self.files.is_same(number, kept):
            return
        with self.files.open(number) as mine, self.files.open_kept(kept) as other:
            if mine.size == other.size and sha256_of(mine) == sha256_of(other):
                return
        raise HistoryError(
            f"lost+found/{kept} exists and is another segment", hint="move it away, and run the command again"
        )

    @contextmanager
    def _staged(self, sealed: SealedSegment) -> Iterator[Path]:
        """The staged file, durable and compared on the medium; whatever of it is left after the block is removed."""
        room = self.room()
        if room is not None and room < sealed.size + _OVERHEAD:
            raise UnavailableError("there is no room for the segment on the archive's volume", hint="free or add space")
        with sealed.open() as source:
            fresh = self.files.stage(sealed.number, pieces(source), self.calls)
        try:
            with self.files.open_staged(sealed.number, self.calls) as written:
                if written.size != sealed.size or sha256_of(written) != sealed.sha256:
                    raise IntegrityError(
                        f"segment {sealed.number} was not written as it was given",
                        hint="nothing was changed; check the volume, and run the command again",
                    )
            yield fresh
        finally:
            self.files.discard(fresh, self.calls)
