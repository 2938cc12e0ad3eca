"""Every checkpoint that was ever signed, in one file: complete signed notes, concatenated, oldest first.

Rule: a note is durable here before it is published, and is never removed; notes that a manual recovery contradicts go
to lost+found. The torn end of an interrupted append is cut before the next append: it was never published. A power cut
may leave holes in it, which read as zeros (no note has any).
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from coffer.archive.format.merkle import EMPTY_ROOT, Frontier
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.in_the_way import writing
from coffer.archive.tree.checkpoint import (
    Checkpoint,
    named,
    open_checkpoint,
    parse_checkpoint,
    read_checkpoint,
    read_note,
)
from coffer.archive.tree.leaves import Leaves
from coffer.keys.disk import opening
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.disk.durable import install, keep, replace, resync, stage
from coffer.keys.disk.reading import unreadable
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, HistoryError, IntegrityError, NotFoundError

_NOTE: Final = re.compile(  # at the start of a line only: what follows a hole is not a note
    rb"(?<![^\n])[^\n\0]+\n[0-9]+\n[^\n\0]+\n\n(?:\xe2\x80\x94 [^\n\0]+\n)+"
)
_REMEDY: Final = "put the newest copy back; coffer recover show lists the remedies"
_TORN: Final = re.compile(rb"[^\n]+(?:\n[0-9]*(?:\n[^\n]*(?:\n(?:\n(?:\xe2[^\n]*)?)?)?)?)?")  # a truncated note
_TAIL_BYTES: Final = 64 << 10  # far more than one note
_PIECE: Final = 1 << 20
_LONGEST_IN_RECOVERY: Final = 1 << 30  # bytes of a history that a manual recovery splits in memory


class HistoryEntry(NamedTuple):
    """A checkpoint of the history and its signed note. The signature is not verified yet."""

    checkpoint: Checkpoint
    note: bytes


def split(pieces: Iterable[bytes]) -> Iterator[HistoryEntry]:
    """The notes of a history that is read in pieces, without a torn one at the end; holds little more than one piece.
    Raises FormatError for anything else in between."""
    held, passed = b"", 0
    for piece in pieces:
        held += piece
        at = 0
        while len(held) - at > 2 * _TAIL_BYTES and (found := _NOTE.match(held, at)):  # so all its lines are here
            yield _entry(found[0])
            at = found.end()
        held, passed = held[at:], passed + at
        if len(held) > 2 * _TAIL_BYTES:
            break
    at = 0
    while found := _NOTE.match(held, at):
        yield _entry(found[0])
        at = found.end()
    if at != len(held) and not _is_torn(held[at:]):
        raise FormatError(
            f"the history of checkpoints cannot be read from byte {passed + at} on", hint="take it from a backup"
        )


def _entry(note: bytes) -> HistoryEntry:
    if len(note) > _TAIL_BYTES:
        raise FormatError("a note of the history is longer than any that was signed", hint="take it from a backup")
    try:
        return HistoryEntry(parse_checkpoint(note[: note.index(b"\n\n") + 1]), note)
    except FormatError as error:
        raise FormatError(f"a note of the history: {error}", hint="take the history from a backup") from error


def read_entries(folder: ArchiveFolder) -> Iterator[HistoryEntry]:
    """The whole history, entry by entry, in constant memory. Raises the same errors as `split`, and IntegrityError if
    it is not a file."""
    try:
        file = opening.opened(folder.checkpoint_history)
    except FileNotFoundError:
        return
    with file:
        yield from split(iter(partial(file.read, _PIECE), b""))


def last_checkpoint(folder: ArchiveFolder) -> Checkpoint:
    """The newest checkpoint of the history. Raises the same errors as `last_entry`, and HistoryError if there is none,
    because the first one is signed before an archive holds any record."""
    last = last_entry(folder)
    if last is None:
        raise HistoryError("checkpoints/history is missing, or holds no checkpoint", hint=_REMEDY)
    return last.checkpoint


def last_entry(folder: ArchiveFolder) -> HistoryEntry | None:
    """The newest entry, read from the end of the file, its signature verified; None if there is none.

    Raises IntegrityError if it is damaged or not signed by this archive's key, UnreadableError.
    """
    try:
        with opening.opened(folder.checkpoint_history) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable("checkpoints/history", error) from error
    start = 0 if size <= _TAIL_BYTES else tail.find(b"\n" + folder.origin.encode() + b"\n") + 1
    found = list(split([tail[start:]]))
    if not found:
        return None
    with named("checkpoints/history"):
        open_checkpoint(found[-1].note, folder)
    return found[-1]


def find_note(folder: ArchiveFolder, size: int) -> bytes:
    """The note of the checkpoint over `size` records. Raises NotFoundError, naming the nearest ones; FormatError."""
    sizes: list[int] = []
    for entry in read_entries(folder):
        if entry.checkpoint.size == size:
            return entry.note
        sizes = sorted([*sizes, entry.checkpoint.size], key=lambda other: abs(other - size))[:3]
    near = sorted(sizes)
    hint = (
        f"the nearest ones cover {', '.join(map(str, near))} records"
        if near
        else "the history of checkpoints is missing"
    )
    raise NotFoundError(f"no checkpoint over {size} records was signed", hint=hint)


def begin(
    folder: ArchiveFolder,
    sign: Callable[[bytes], bytes],
    remember: Callable[[bytes], None] | None = None,
    calls: Syscalls = SYSTEM,
) -> None:
    """Sign the log while it has no record, as a step of making an archive; durable on return, and repeatable.

    From then on, a checkpoint that is missing anywhere was taken away. `sign` makes a signed note of a text, the same
    one each time; `remember` as in `publish`. Raises UnavailableError.
    """
    settle_history(folder, calls)
    publish(folder, sign(Checkpoint(folder.origin, 0, EMPTY_ROOT).serialize()), remember, calls)


def publish(
    folder: ArchiveFolder,
    note: bytes,
    remember: Callable[[bytes], None] | None = None,
    calls: Syscalls = SYSTEM,
) -> None:
    """Append a signed note to the history, let the keyring remember it, then make it the latest; each step is durable.

    A latest note that the history lacks is appended first; one that only the history has is first made the latest.
    Raises HistoryError for a note that is older than the history's last one or has another root at its size,
    UnavailableError.
    """
    made = open_checkpoint(note, folder)
    last, latest = last_entry(folder), _latest(folder)
    if last is not None:
        _require_newer(last.checkpoint, made)
    history_end = last.checkpoint.size if last is not None else 0
    latest_size = latest.checkpoint.size if latest is not None else 0
    if last is not None and latest_size < history_end < made.size:  # finish an interrupted call: one behind at most
        _set_latest(folder, last.note, remember, calls)
    elif latest is not None and history_end < latest_size < made.size:
        _append(folder, latest.note, calls)
    if last is None or history_end < made.size:
        _append(folder, note, calls)
    _set_latest(folder, note, remember, calls)


def _latest(folder: ArchiveFolder) -> HistoryEntry | None:
    """The entry in `latest`; None if it is missing or damaged: verify reports that, and it is about to be replaced."""
    try:
        note = read_note(folder)
        return HistoryEntry(open_checkpoint(note, folder), note)
    except IntegrityError:
        return None


def _set_latest(folder: ArchiveFolder, note: bytes, remember: Callable[[bytes], None] | None, calls: Syscalls) -> None:
    """Let the keyring remember a note of the history, then publish it as the latest."""
    if remember is not None:
        remember(note)
    with writing(folder, folder.checkpoint):
        replace(folder.checkpoint, note, calls=calls)


def settle_history(folder: ArchiveFolder, calls: Syscalls = SYSTEM) -> None:
    """Make durable what an earlier or failed append left at the end of the history; later reads come from the device.

    Raises UnavailableError, IntegrityError if it is not a file.
    """
    if opening.exists(folder.checkpoint_history):
        opening.size(folder.checkpoint_history)  # it raises for a link or a folder, which is no fault of the volume
        resync(folder.checkpoint_history, calls=calls)


def set_aside(folder: ArchiveFolder, size: int, calls: Syscalls = SYSTEM) -> None:
    """Keep the entries that are true of the first `size` records; the file as it was goes to lost+found.

    Durable on return. If the history cannot be parsed, no entry is kept. Raises IntegrityError if the log is shorter.
    """
    try:
        data = opening.read(folder.checkpoint_history, _LONGEST_IN_RECOVERY)
    except FileNotFoundError:
        return
    try:
        entries = list(split([data]))
    except FormatError:
        entries = []
    leaves, tree, kept = Leaves(folder), Frontier(), b""
    for checkpoint, note in entries:
        if tree.size <= checkpoint.size <= size:
            leaves.grow(tree, checkpoint.size)
            kept += note if tree.root() == checkpoint.root else b""
    if kept != data:
        keep(folder.lost_and_found / f"history-{hashlib.sha256(data).hexdigest()[:16]}.notes", data, calls=calls)
        replace(folder.checkpoint_history, kept, calls=calls)


def restore_history(folder: ArchiveFolder, copy: ArchiveFolder, calls: Syscalls = SYSTEM) -> bool:
    """Take the history from a copy if there is none here, or it is damaged anywhere, up to the latest checkpoint here.

    Only entries that this archive signed and that are true of the log here are taken; a damaged file goes to
    lost+found. Durable on return; False if nothing was changed: the history is whole, `latest` is not, or the copy has
    no entry to give.
    """
    if _is_readable(folder):
        return False
    taken = b""
    try:
        note, signed = read_note(folder), read_checkpoint(folder)
        leaves, tree = Leaves(folder), Frontier()
        for checkpoint, theirs in read_entries(copy):
            if tree.size <= checkpoint.size < signed.size:
                leaves.grow(tree, checkpoint.size)
                open_checkpoint(theirs, folder)
                taken += theirs if tree.root() == checkpoint.root else b""
    except (IntegrityError, OSError):
        return False
    if not taken and signed.size:
        return False
    with suppress(FileNotFoundError):
        data = opening.read(folder.checkpoint_history, _LONGEST_IN_RECOVERY)
        keep(folder.lost_and_found / f"history-{hashlib.sha256(data).hexdigest()[:16]}.notes", data, calls=calls)
    replace(folder.checkpoint_history, taken + note, calls=calls)
    return True


def _is_readable(folder: ArchiveFolder) -> bool:
    """Whether there are entries, and this archive signed each."""
    has_entries = False
    try:
        for entry in read_entries(folder):
            open_checkpoint(entry.note, folder)
            has_entries = True
    except IntegrityError:
        return False
    return has_entries


def _require_newer(old: Checkpoint, new: Checkpoint) -> None:
    """Raise HistoryError if `new` cannot follow `old`: it is smaller, or has another root at the same size."""
    if new.size < old.size or (new.size == old.size and new.root != old.root):
        raise HistoryError(
            f"a checkpoint over {old.size} records was signed, which the one over {new.size} contradicts",
            hint="nothing was signed; coffer recover show lists what is missing and the remedies",
        )


def _append(folder: ArchiveFolder, data: bytes, calls: Syscalls) -> None:
    found = opening.status(folder.checkpoint_history)
    if found is None:
        replace(folder.checkpoint_history, data, calls=calls)
        return
    if found.st_nlink > 1:  # the file has another name too: what that name shows must not change
        with opening.opened(folder.checkpoint_history) as shared:
            own = stage(folder.checkpoint_history, iter(partial(shared.read, _PIECE), b""), calls=calls)
        install(own, folder.checkpoint_history, None, calls=calls)
    file = AppendFile(folder.checkpoint_history, calls=calls)
    try:
        torn = _torn(folder)
        if torn:
            file.truncate(file.size - torn)
        file.write_all([data])
        file.sync()
    finally:
        file.close()


def _is_torn(rest: bytes) -> bool:
    """Whether an interrupted append can have left this: a truncated note, or one with holes that read as zeros."""
    if len(rest) >= _TAIL_BYTES:
        return False
    if b"\0" not in rest:
        return _TORN.fullmatch(rest) is not None
    return rest.count(b"\n\n") < 2 and not _NOTE.search(rest)


def _torn(folder: ArchiveFolder) -> int:
    """The number of bytes of a torn append at the end; a signature line may be cut anywhere."""
    with opening.opened(folder.checkpoint_history) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    end = 0
    for found in _NOTE.finditer(tail):
        end = found.end()
    return len(tail) - end
