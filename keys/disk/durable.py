"""Files and folders that must survive power loss: written, replaced, moved and removed atomically.

Rule: this module, `keys.disk.append_file` and `keys.disk.syscalls` are the only code in the product that syncs,
renames, links or removes files. Every function's docstring lists its system calls in order and says what is durable on
return; every OSError becomes UnavailableError. It does not lock, and knows nothing of what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from coffer.keys.buffer import Buffer
from coffer.keys.disk import opening
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.disk.syscalls import SYSTEM, Syscalls, converted, sync_folder, write_fully
from coffer.keys.errors import IntegrityError, UnavailableError

__all__ = [
    "discard",
    "discard_folder",
    "install",
    "keep",
    "make_folder",
    "make_folders",
    "move",
    "place",
    "remove",
    "remove_folder",
    "replace",
    "resync",
    "spare",
    "stage",
    "tidy",
    "write_new",
]

_DROP: Final = getattr(os, "POSIX_FADV_DONTNEED", 4)
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def make_folder(path: Path, mode: int = 0o700, *, calls: Syscalls = SYSTEM) -> None:
    """Create one folder: mkdir, fsync(parent). Durable on return. An existing folder is kept and synced too."""
    with converted("make folder", path):
        try:
            calls.mkdir(path, mode)
        except FileExistsError:
            if not opening.is_folder(path):
                raise
    sync_folder(path.parent, calls=calls)


def make_folders(path: Path, above: Path, mode: int = 0o700, *, calls: Syscalls = SYSTEM) -> None:
    """Create a folder and those between it and `above`, which exists: mkdir, fsync(parent) for each, also for existing
    ones, which a crash may have left unsynced. Durable on return."""
    names = path.relative_to(above).parts
    for count in range(1, len(names) + 1):
        make_folder(above.joinpath(*names[:count]), mode, calls=calls)


def _write_and_sync(path: Path, data: Buffer, mode: int, calls: Syscalls) -> None:
    """open(O_EXCL, mode), writev, fsync, close; on failure the partial file is unlinked and the error re-raised."""
    fd = calls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            write_fully(calls, fd, [data])
            calls.fsync(fd)
        finally:
            calls.close(fd)
    except OSError:
        with contextlib.suppress(OSError):
            calls.unlink(path)
        raise


def write_new(path: Path, data: Buffer, mode: int = 0o600, *, calls: Syscalls = SYSTEM) -> None:
    """Write a file that must not exist yet: `stage`, then `place`.

    At any point it is complete or absent; on return name and content are durable. Raises UnavailableError; an existing
    file is untouched.
    """
    if not place(stage(path, [data], mode, calls=calls), path, calls=calls):
        raise UnavailableError(f"cannot write {path}: it exists already", hint="choose another name, or move it away")


def tidy(path: Path, *, calls: Syscalls = SYSTEM) -> None:
    """Remove the second name of a file that a crash in `write_new` may have left: unlink, fsync(folder), where there is
    one. Durable on return."""
    fresh = path.with_name(f".{path.name}.new")
    if opening.exists(fresh):
        remove(fresh, calls=calls)


def _clear(fresh: Path, calls: Syscalls) -> None:
    """Free the name of a file's next content: unlink. A folder, which somebody else put there, is renamed: removing it
    would mean to enter it."""
    try:
        calls.unlink(fresh)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        if not opening.is_folder(fresh):
            raise
        calls.rename(fresh, _beside(fresh))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}-{os.urandom(4).hex()}")


def spare(path: Path) -> Path:
    """This path, or one beside it if something has its name."""
    return _beside(path) if opening.exists(path) else path


def keep(path: Path, data: Buffer, *, calls: Syscalls = SYSTEM) -> Path:
    """Write what has to be kept, under this name or, where that is taken by anything but a file with these bytes or the
    first of them, one beside it: as `replace`. Returns where; durable on return."""
    try:
        is_free = not opening.exists(path) or bytes(data).startswith(opening.read(path, len(data)))
    except (IntegrityError, OSError):
        is_free = False
    found = path if is_free else _beside(path)
    replace(found, data, calls=calls)
    return found


def replace(path: Path, data: Buffer, mode: int = 0o600, *, calls: Syscalls = SYSTEM) -> None:
    """Replace a file's content atomically: unlink(stale), open(O_EXCL) of `.<name>.new`, writev, fsync, close, rename,
    fsync(folder).

    A reader, or a crash at any point, sees the old content or the new; on return the new content is durable.
    Raises UnavailableError. One process at a time may replace a given path.
    """
    fresh = path.with_name(f".{path.name}.new")
    with converted("replace", path):
        _clear(fresh, calls)
        _write_and_sync(fresh, data, mode, calls)
        calls.rename(fresh, path)
    sync_folder(path.parent, calls=calls)


def remove(path: Path, *, calls: Syscalls = SYSTEM) -> None:
    """Remove a file, which may be absent: unlink, fsync(folder). Durable on return."""
    with converted("remove", path), contextlib.suppress(FileNotFoundError):
        calls.unlink(path)
    sync_folder(path.parent, calls=calls)


def discard(path: Path, *, calls: Syscalls = SYSTEM) -> None:
    """Remove a file that is no longer needed, best effort: unlink. It may reappear after a power cut.

    A failure, as on a volume that became read-only, is ignored.
    """
    with contextlib.suppress(OSError):
        calls.unlink(path)


def discard_folder(path: Path, *, calls: Syscalls = SYSTEM) -> None:
    """Remove a folder that is no longer needed, and its content, best effort: unlink, rmdir.

    Of a symbolic link only the link is removed.
    """
    if not opening.is_folder(path):
        discard(path, calls=calls)
        return
    found = [path]
    for folder in found:  # the list grows while it is walked; each folder stands behind its parent, at any depth
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found.append(Path(entry.path))
                else:
                    discard(Path(entry.path), calls=calls)
    for folder in reversed(found):
        with contextlib.suppress(OSError):
            calls.rmdir(folder)


def remove_folder(path: Path, *, calls: Syscalls = SYSTEM) -> None:
    """Remove a folder, which may be absent, atomically: rename to `.<name>.old`, fsync(folder), then its content.

    On return its name is durably gone. A crash may leave parts of `.<name>.old`, which the next call removes.
    """
    old = path.with_name(f".{path.name}.old")
    discard_folder(old, calls=calls)
    if opening.exists(path):
        move(path, old, calls=calls)
    discard_folder(old, calls=calls)


def move(path: Path, target: Path, *, calls: Syscalls = SYSTEM) -> None:
    """Move a file to another folder on the same volume: rename, fsync(both folders). Durable on return."""
    with converted("move", path):
        calls.rename(path, target)
    sync_folder(target.parent, calls=calls)
    sync_folder(path.parent, calls=calls)


def stage(path: Path, pieces: Iterable[Buffer], mode: int = 0o600, *, calls: Syscalls = SYSTEM) -> Path:
    """Write a file's next content beside it, as `.<name>.new`: unlink(stale), open(O_EXCL), fsync(folder), writev,
    fdatasync, close. Durable on return, and without effect until `install` or `place`; on failure it is unlinked and
    the error re-raised."""
    fresh = path.with_name(f".{path.name}.new")
    with converted("replace", path):
        _clear(fresh, calls)
    try:
        file = AppendFile(fresh, create=True, mode=mode, calls=calls)
        try:
            for piece in pieces:
                file.write_all([piece])
            file.sync()
        finally:
            file.close()
    except BaseException:
        discard(fresh, calls=calls)
        raise
    return fresh


def install(fresh: Path, path: Path, kept: Path | None, *, calls: Syscalls = SYSTEM) -> None:
    """Replace `path` by a staged file and keep its old content as `kept` (None: do not keep it): link, fsync(its
    folder), rename, fsync(folder).

    At any point `path` is the complete old file or the complete new one, and before it is the new one, `kept` is
    durably the old one. A reader that has the old file open keeps reading it.
    """
    if kept is not None:
        with (
            converted("keep", path),
            contextlib.suppress(FileExistsError),
        ):  # an earlier call was interrupted after this
            calls.link(path, kept)
        sync_folder(kept.parent, calls=calls)
    with converted("replace", path):
        calls.rename(fresh, path)
    sync_folder(path.parent, calls=calls)


def place(fresh: Path, path: Path, *, calls: Syscalls = SYSTEM) -> bool:
    """Give a staged file its name unless that is taken: link, unlink(fresh), fsync(folder). Durable on return.

    Returns False, with `path` untouched, where it exists. Where the file system has no hard links, `path` is checked
    and then renamed to.
    """
    is_free = True
    try:
        with converted("write", path):
            try:
                calls.link(fresh, path)
            except FileExistsError:
                is_free = False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                is_free = not opening.exists(path)
                if is_free:
                    calls.rename(fresh, path)
    finally:
        discard(fresh, calls=calls)
    sync_folder(path.parent, calls=calls)
    return is_free


def resync(path: Path, *, calls: Syscalls = SYSTEM) -> None:
    """Make an existing file durable and drop its cached pages: open(O_RDONLY), fdatasync, posix_fadvise(DONTNEED),
    close, fsync(folder).

    Call it before reading a file that an earlier process wrote: if that was killed, the file's last bytes and its name
    may be in the page cache only. If one of its syncs failed, the cache still shows bytes that the device never got,
    and a second sync reports them as stable; so the cache is dropped, and the next read comes from the device. Raises
    UnavailableError.
    """
    with converted("sync", path):
        fd = calls.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0)
        try:
            calls.fdatasync(fd)
            calls.posix_fadvise(fd, 0, 0, _DROP)
        finally:
            calls.close(fd)
    sync_folder(path.parent, calls=calls)
