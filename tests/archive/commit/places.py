"""Logs to be taken, in a folder and in memory, and the groups that go into them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from coffer.archive.commit.commit_log import CommitLog, Group, LogEnd
from coffer.archive.commit.folder_log import FolderLog
from coffer.archive.commit.hashed_entry import HashedEntry, hashed_entry
from coffer.archive.commit.memory_log import MemoryLog
from coffer.archive.commit.next_group import next_group
from coffer.archive.format.entry import Entry
from coffer.archive.format.group import NO_LINEAGE, GroupEnd
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.memory_segments import MemorySegments
from coffer.archive.store.segment_store import LOG
from coffer.archive.tree.checkpoint_history import begin
from coffer.archive.verify.verify import Verifier
from coffer.keys.disk.lock import this_process
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.lease.epoch_authority import EpochAuthority, Lease
from coffer.keys.lease.flock_authority import FlockAuthority
from coffer.keys.lease.memory_authority import MemoryAuthority
from tests.archive.conftest import FIRST_MS, ORIGIN, SIGNER

NAME = "LOCK"


def tag_of(end: GroupEnd) -> bytes:
    return end.tag(NO_LINEAGE, SIGNER.sign_statement)


def facts(end: LogEnd) -> tuple[object, ...]:
    """Everything that an end of a log says, to compare two of them."""
    chain, *others = end
    return chain.next_seq, chain.head, chain.tree.size, chain.tree.edge, chain.order, *others


@dataclass(frozen=True)
class Place:
    """An archive without records, who may write it, and each writer's view of its log. `append_raw`, `cut_raw` and
    `drop_last`, which removes the last segment, leave what a crash leaves; `kept` is lost+found."""

    folder: ArchiveFolder
    authority: EpochAuthority
    log: Callable[[], CommitLog]
    append_raw: Callable[[bytes], None]
    cut_raw: Callable[[int], None]
    drop_last: Callable[[], None]
    kept: Callable[[], dict[str, bytes]]

    def lease(self) -> Lease:
        """The lease, for one who displaces whoever holds it, or follows whoever gave it up."""
        found = self.authority.current(NAME)
        return self.authority.acquire(NAME, this_process("test", 1), found.epoch)

    def group(self, at: LogEnd, *entries: Entry | HashedEntry) -> Group:
        """The group of these entries behind an end."""
        with ExitStack() as files:
            hashed = [each if isinstance(each, HashedEntry) else hashed_entry(each, files) for each in entries]
            return next_group(self.folder.archive_id, at, hashed, lambda: FIRST_MS, tag_of)[0]

    def segments(self) -> list[bytes]:
        """All segments."""
        store = self.folder.segment_store()
        data = []
        for info in store.segments(LOG):
            with store.open(LOG, info.number) as source:
                data.append(source.read(0, source.size))
        return data

    def content_ids(self) -> list[bytes]:
        """The content ids of all records, as a reader finds them."""
        reader = LogReader(self.folder)
        found = [header.content_id for _, header in reader.records()]
        reader.close()
        return found

    def require_sound(self) -> None:
        """Fail if a verification finds anything."""
        assert list(Verifier(self.folder).findings()) == []


def _archive(path: Path) -> ArchiveFolder:
    ArchiveFolder.prepare(path)
    folder = ArchiveFolder(path, bytes(range(16)), ORIGIN, SIGNER.vkey(ORIGIN))
    begin(folder, partial(SIGNER.sign_note, ORIGIN))
    folder.commit()
    return ArchiveFolder.open(path)


def _clock() -> Callable[[], int]:
    times: Iterator[int] = iter(range(FIRST_MS, FIRST_MS + 10**9, 1000))
    return lambda: next(times)


def folder_place(path: Path, calls: Syscalls = SYSTEM) -> Place:
    """A log in a folder: each writer opens it anew."""
    folder, now_ms = _archive(path), _clock()

    def append_raw(data: bytes) -> None:
        last = folder.segment_files.path(folder.segment_files.numbers()[-1])
        last.write_bytes(last.read_bytes() + data)

    def cut_raw(count: int) -> None:
        last = folder.segment_files.path(folder.segment_files.numbers()[-1])
        last.write_bytes(last.read_bytes()[:-count])

    return Place(
        folder,
        FlockAuthority(path, "held by", ""),
        lambda: FolderLog(folder, now_ms, calls),
        append_raw,
        cut_raw,
        lambda: folder.segment_files.path(folder.segment_files.numbers()[-1]).unlink(),
        lambda: {kept.name: kept.read_bytes() for kept in folder.lost_and_found.iterdir()},
    )


def memory_place(path: Path) -> Place:
    """A log in memory, shared by all writers; checkpoints and keys are in a folder."""
    store = MemorySegments()
    folder = replace(_archive(path), held_in=store)
    log = MemoryLog(folder, store)

    def cut_raw(count: int) -> None:
        last = store.segments(LOG)[-1]
        store.cut(last.number, last.size - count, "")

    return Place(
        folder,
        MemoryAuthority(),
        lambda: log,
        lambda data: store.grow(store.segments(LOG)[-1].number, data),
        cut_raw,
        lambda: store.set_aside(LOG, store.segments(LOG)[-1].number, "not begun"),
        lambda: dict(store.lost_and_found),
    )
