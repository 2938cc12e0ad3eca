"""Every checkpoint that was ever signed, in one file: signed notes, whole, one behind the other, oldest first.

Rule: a note is durable here before anybody is shown it, and is never taken out; what recovery by hand contradicts goes
to lost+found. The unfinished rest of an append that was stopped is cut before the next one: nobody saw it. A power cut
may leave it with holes, which read as zeros (no note has any).
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple

from coffer.archive.format.merkle import Frontier
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint, read_note
from coffer.archive.tree.leaves import Leaves
from coffer.keys.disk import opening
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.disk.durable import install, replace, resync, stage
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, HistoryError, IntegrityError, NotFoundError

_NOTE: Final = re.compile(  # where a line begins: what follows a hole is no note
    rb"(?<![^\n])[^\n\0]+\n[0-9]+\n[^\n\0]+\n\n(?:\xe2\x80\x94 [^\n\0]+\n)+"
)
_TORN: Final = re.compile(rb"[^\n]+(?:\n[0-9]*(?:\n[^\n]*(?:\n(?:\n(?:\xe2[^\n]*)?)?)?)?)?")  # a note, cut anywhere
_TAIL_BYTES: Final = 64 << 10  # far more than one note
_PIECE: Final = 1 << 20
_MOST_BY_HAND: Final = 1 << 30  # of a history that recovery by hand divides in memory


class Noted(NamedTuple):
    """A checkpoint of the history and the signed note that says it. The signature is not checked yet."""

    checkpoint: Checkpoint
    note: bytes


def split(pieces: Iterable[bytes]) -> Iterator[Noted]:
    """The notes in a history that is read in pieces, without an unfinished one at the end; holds little more than one
    piece. Raises FormatError for anything else in between."""
    held, passed = b"", 0
    for piece in pieces:
        held += piece
        at = 0
        while len(held) - at > 2 * _TAIL_BYTES and (found := _NOTE.match(held, at)):  # its lines are all here
            yield _noted(found[0])
            at = found.end()
        held, passed = held[at:], passed + at
        if len(held) > 2 * _TAIL_BYTES:
            break
    at = 0
    while found := _NOTE.match(held, at):
        yield _noted(found[0])
        at = found.end()
    if at != len(held) and not _is_torn(held[at:]):
        raise FormatError(
            f"the history of checkpoints cannot be read from byte {passed + at} on", hint="take it from a backup"
        )


def _noted(note: bytes) -> Noted:
    if len(note) > _TAIL_BYTES:
        raise FormatError("a note of the history is longer than any that was signed", hint="take it from a backup")
    return Noted(parse_checkpoint(note[: note.index(b"\n\n") + 1]), note)


def read_notes(folder: ArchiveFolder) -> Iterator[Noted]:
    """The whole history, one after the other, however long it is. Raises as `split`, and IntegrityError for what is no
    file."""
    try:
        file = opening.opened(folder.notes)
    except FileNotFoundError:
        return
    with file:
        yield from split(iter(partial(file.read, _PIECE), b""))


def last_checkpoint(folder: ArchiveFolder) -> Checkpoint | None:
    """The newest checkpoint of the history. Raises as `last_note`."""
    last = last_note(folder)
    return last.checkpoint if last else None


def last_note(folder: ArchiveFolder) -> Noted | None:
    """The newest note, read from the end of the file, its signature checked; None where there is none.

    Raises IntegrityError where it is damaged or not by this archive's key.
    """
    try:
        with opening.opened(folder.notes) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return None
    start = 0 if size <= _TAIL_BYTES else tail.find(b"\n" + folder.origin.encode() + b"\n") + 1
    found = list(split([tail[start:]]))
    if not found:
        return None
    open_checkpoint(found[-1].note, folder)
    return found[-1]


def find_note(folder: ArchiveFolder, size: int) -> bytes:
    """The note of the checkpoint over `size` records. Raises NotFoundError, naming the nearest ones; FormatError."""
    sizes: list[int] = []
    for noted in read_notes(folder):
        if noted.checkpoint.size == size:
            return noted.note
        sizes = sorted([*sizes, noted.checkpoint.size], key=lambda other: abs(other - size))[:3]
    near = sorted(sizes)
    hint = f"the nearest ones cover {', '.join(map(str, near))} records" if near else "nothing was signed yet"
    raise NotFoundError(f"no checkpoint over {size} records was signed", hint=hint)


def publish(
    folder: ArchiveFolder,
    note: bytes,
    remember: Callable[[bytes], None] | None = None,
    calls: Syscalls = SYSTEM,
) -> None:
    """Enter a signed note into the history, let the keyring remember it, then make it the latest; each step durable.

    A latest note that the history lacks is entered before it, and one that only the history has is shown before it.
    Raises HistoryError for a note that is older than the history's last or gives another root for its size,
    UnavailableError.
    """
    made = open_checkpoint(note, folder)
    last, shown = last_note(folder), _latest(folder)
    if last is not None:
        _require_newer(last.checkpoint, made)
    end = last.checkpoint.size if last is not None else 0
    behind = shown.checkpoint.size if shown is not None else 0
    if last is not None and behind < end < made.size:  # finish what a stop came into: `latest` is one behind at most
        _show(folder, last.note, remember, calls)
    elif shown is not None and end < behind < made.size:
        _append(folder, shown.note, calls)
    if last is None or end < made.size:
        _append(folder, note, calls)
    _show(folder, note, remember, calls)


def _latest(folder: ArchiveFolder) -> Noted | None:
    """What `latest` says; None where it is missing or damaged: verify tells, and it is about to be replaced."""
    try:
        note = read_note(folder)
        return Noted(open_checkpoint(note, folder), note)
    except (FileNotFoundError, IntegrityError):
        return None


def _show(folder: ArchiveFolder, note: bytes, remember: Callable[[bytes], None] | None, calls: Syscalls) -> None:
    """Tell the keyring of a note that the history holds, then everybody."""
    if remember is not None:
        remember(note)
    replace(folder.checkpoint, note, calls=calls)


def settle_notes(folder: ArchiveFolder, calls: Syscalls = SYSTEM) -> None:
    """Make stable what an earlier or failed append left at the end of the history, and believe the device what it is.

    Raises UnavailableError.
    """
    if opening.exists(folder.notes):
        resync(folder.notes, calls=calls)


def set_aside(folder: ArchiveFolder, size: int, calls: Syscalls = SYSTEM) -> None:
    """Keep in the history what is true of the first `size` records; the file as it was goes to lost+found.

    Durable on return. A history that cannot be read goes as a whole. Raises IntegrityError where the log is shorter.
    """
    try:
        data = opening.read(folder.notes, _MOST_BY_HAND)
    except FileNotFoundError:
        return
    try:
        noted = list(split([data]))
    except FormatError:
        noted = []
    leaves, tree, kept = Leaves(folder), Frontier(), b""
    for checkpoint, note in noted:
        if tree.size <= checkpoint.size <= size:
            leaves.grow(tree, checkpoint.size)
            kept += note if tree.root() == checkpoint.root else b""
    if kept != data:
        replace(folder.lost_and_found / f"history-{hashlib.sha256(data).hexdigest()[:16]}.notes", data, calls=calls)
        replace(folder.notes, kept, calls=calls)


def _require_newer(old: Checkpoint, new: Checkpoint) -> None:
    """Raise HistoryError where `new` cannot be signed after `old`: it is smaller, or another root of the same size."""
    if new.size < old.size or (new.size == old.size and new.root != old.root):
        raise HistoryError(
            f"a checkpoint over {old.size} records was signed, which the one over {new.size} contradicts",
            hint="nothing was signed; coffer recover show tells what is missing and the ways out",
        )


def _append(folder: ArchiveFolder, data: bytes, calls: Syscalls) -> None:
    found = opening.status(folder.notes)
    if found is None:
        replace(folder.notes, data, calls=calls)
        return
    if found.st_nlink > 1:  # what is known under another name too is not changed there
        with opening.opened(folder.notes) as shared:
            own = stage(folder.notes, iter(partial(shared.read, _PIECE), b""), calls=calls)
        install(own, folder.notes, None, calls=calls)
    file = AppendFile(folder.notes, calls=calls)
    try:
        torn = _torn(folder)
        if torn:
            file.truncate(file.size - torn)
        file.write_all([data])
        file.sync()
    finally:
        file.close()


def _is_torn(rest: bytes) -> bool:
    """Whether this can be what a stop left of one append: a note, cut anywhere, or with holes that hold zeros."""
    if len(rest) >= _TAIL_BYTES:
        return False
    if b"\0" not in rest:
        return _TORN.fullmatch(rest) is not None
    return rest.count(b"\n\n") < 2 and not _NOTE.search(rest)


def _torn(folder: ArchiveFolder) -> int:
    """How many bytes of an unfinished append stand at the end; a signature line may be cut anywhere."""
    with opening.opened(folder.notes) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    end = 0
    for found in _NOTE.finditer(tail):
        end = found.end()
    return len(tail) - end
