"""Open files in folders where others may have planted something: relative to an open folder handle, never through a
link, and regular files only.

Rule: an archive folder lies on disks and shares that others can write to (`distrust`). Below it no link is followed,
not even one that stays inside; only regular files are opened, checked by handle and not by name; sizes and counts are
bounded before anything is read. The folder itself may be reached through a link, which belongs to its owner. Elsewhere
paths keep their usual meaning. It writes nothing: `keys.disk.syscalls` does, through the same handles.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from coffer.keys.errors import IntegrityError

__all__ = [
    "below",
    "create",
    "descriptor",
    "distrust",
    "exists",
    "is_folder",
    "kind",
    "link_error",
    "names",
    "opened",
    "planted",
    "read",
    "require_folder",
    "shown",
    "size",
    "sizes",
    "status",
]

MOST_NAMES: Final = 4_000_000  # in one folder; a full folder of segments has fewer
_HANDLE: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_QUIET: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: do not wait for the other end of a pipe
_LONGEST_SHOWN: Final = 80
_REMEDY: Final = "Coffer did not put it there: check who can write to this folder, then move it away"
_distrusted: set[str] = set()


def distrust(folder: Path) -> None:
    """From now on follow no link below `folder`, anywhere in this process. May be repeated."""
    _distrusted.add(os.path.abspath(folder))  # noqa: PTH100  a link to the folder itself belongs to its owner


def _split_path(path: Path) -> tuple[str, list[str]]:
    """Return the nearest distrusted folder above a path and the names below it; no names where there is none."""
    whole = os.path.abspath(path)  # noqa: PTH100
    end = whole.rfind(os.sep)
    while end > 0:
        if (root := whole[:end]) in _distrusted:
            return root, whole[end + 1 :].split(os.sep)  # noqa: PTH206  a Path costs more than the call to open it
        end = whole.rfind(os.sep, 0, end)
    return "", []


def link_error(path: Path | str) -> OSError:
    """Return the OSError (ELOOP) for a path that leads through a link or to something that is not a file."""
    return OSError(errno.ELOOP, "it is a link, or not a regular file", str(path))


@contextlib.contextmanager
def below(path: Path) -> Iterator[tuple[int | None, str]]:
    """Hold the folder of `path` open while the block runs. Yields its handle and the name in it; for a path that is not
    below a distrusted folder None and the path.

    Raises OSError: ELOOP where one of the folders on the way is a link or a file.
    """
    root, parts = _split_path(path)
    if not parts:
        yield None, str(path)
        return
    handle = os.open(root, _HANDLE)
    try:
        for part in parts[:-1]:
            try:
                inner = os.open(part, _HANDLE | os.O_NOFOLLOW, dir_fd=handle)
            except OSError as error:
                if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                    raise link_error(path) from error
                error.filename = str(path)
                raise
            os.close(handle)
            handle = inner
        yield handle, parts[-1]
    finally:
        os.close(handle)


def status(path: Path) -> os.stat_result | None:
    """Return the status of a name, below a distrusted folder without following it; None where it is absent or a link is
    on the way. Raises OSError."""
    try:
        with below(path) as (handle, name):
            return os.stat(name, dir_fd=handle, follow_symlinks=handle is None)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return None
        raise


def exists(path: Path) -> bool:
    """Whether the name exists, if only as a dangling link below a distrusted folder."""
    return status(path) is not None


def is_folder(path: Path) -> bool:
    """Whether it is a folder, and below a distrusted folder not a link to one."""
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def require_folder(path: Path) -> None:
    """Raise IntegrityError unless it is a folder, FileNotFoundError where it does not exist."""
    with _reported(path), below(path) as (handle, name):
        found = os.stat(name, dir_fd=handle, follow_symlinks=handle is None)
        if not stat.S_ISDIR(found.st_mode):
            raise planted(path, found, "folder")


def size(path: Path) -> int:
    """Return a file's size in bytes. Raises as `descriptor`, but opens nothing."""
    with _reported(path), below(path) as (handle, name):
        found = os.stat(name, dir_fd=handle, follow_symlinks=handle is None)
        if not stat.S_ISREG(found.st_mode):
            raise planted(path, found, "file")
        return found.st_size


def names(folder: Path, most: int = MOST_NAMES) -> list[str]:
    """Return the names in a folder, unordered. Raises IntegrityError for a link, a non-folder and more than `most`."""
    with _entries(folder, most) as entries:
        return [entry.name for entry in entries]


def sizes(folder: Path, most: int = MOST_NAMES) -> dict[str, int]:
    """Return the names in a folder, unordered, with the size in bytes of each regular file and 0 for anything else. One
    pass, about 2 us a name. Raises as `names`."""
    found: dict[str, int] = {}
    with _entries(folder, most) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # removed since its name was read
                about = entry.stat(follow_symlinks=False)
                found[entry.name] = about.st_size if stat.S_ISREG(about.st_mode) else 0
    return found


@contextlib.contextmanager
def _entries(folder: Path, most: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    with _reported(folder), below(folder) as (handle, name):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if handle is None else os.O_NOFOLLOW)
        try:
            inside = os.open(name, flags, dir_fd=handle)
        except NotADirectoryError as error:
            raise link_error(folder) from error
        try:
            with os.scandir(inside) as entries:
                yield _bounded(folder, entries, most)
        finally:
            os.close(inside)


def _bounded(folder: Path, entries: Iterable[os.DirEntry[str]], most: int) -> Iterator[os.DirEntry[str]]:
    for count, entry in enumerate(entries):
        if count == most:
            raise IntegrityError(f"{shown(folder)} holds more than {most} entries", hint=_REMEDY)
        yield entry


def descriptor(path: Path) -> int:
    """Open a file for reading. Returns its descriptor, which the caller closes.

    Raises IntegrityError where it is not a regular file, or is a link or reached through one; otherwise the system's
    OSError, such as FileNotFoundError or PermissionError.
    """
    with _reported(path), below(path) as (handle, name):
        if handle is None:
            found = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        else:
            before = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode):  # opening a device may have side effects
                raise planted(path, before, "file")
            found = os.open(name, os.O_RDONLY | _QUIET, dir_fd=handle)
        about = os.fstat(found)
        if not stat.S_ISREG(about.st_mode):
            os.close(found)
            raise planted(path, about, "file")
        return found


def opened(path: Path) -> BinaryIO:
    """Return a file object open for reading. Raises as `descriptor`."""
    return os.fdopen(descriptor(path), "rb")


def read(path: Path, most: int) -> bytes:
    """Return a whole file of at most `most` bytes. Raises as `descriptor`; IntegrityError for a larger one, unread."""
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise IntegrityError(
                f"{shown(path)} is larger than the {most} bytes that Coffer ever writes there", hint=_REMEDY
            )
        return file.read(most)


def create(path: Path) -> int:
    """Create a file, mode 0600, that must not exist, and open it for reading and writing. Returns its descriptor, which
    the caller closes. Nothing is durable. Raises OSError."""
    with below(path) as (handle, name):
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _QUIET, 0o600, dir_fd=handle)


def shown(name: Path | str) -> str:
    """Return any name as printable text: control characters and undecodable bytes escaped, a long one shortened."""
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(name))
    return text if len(text) <= 4 * _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...{text[-_LONGEST_SHOWN:]}"


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Raise ELOOP from the block as IntegrityError: here it means a planted link."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ELOOP:
            error.filename = str(path)
            raise
        raise IntegrityError(f"{shown(path)} is a link, or reached through one", hint=_REMEDY) from error


def planted(path: Path, found: os.stat_result, wanted: str) -> IntegrityError:
    """Return the error for a name that is not the `wanted` kind of thing ('file', 'folder')."""
    return IntegrityError(f"{shown(path)} is {kind(found)}, not a {wanted}", hint=_REMEDY)


def kind(found: os.stat_result) -> str:
    """Return the file type in words."""
    return {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }.get(stat.S_IFMT(found.st_mode), "a device")
