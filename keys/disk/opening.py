"""Files and folders that somebody else may have planted: opened by name inside a folder that is held open, never
through a link, and only what is a file.

Rule: an archive folder lies on disks and shares of others (`distrust`). Below it no link is followed, not even one that
stays inside; what is opened is a regular file, told by its handle, not by its name; sizes and counts are bounded before
anything is read. The folder itself may be reached by a link: that one is its owner's. Elsewhere paths mean what they
always mean. It writes nothing: `keys.disk.syscalls` does, through the same handles.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
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
    "look",
    "names",
    "opened",
    "planted",
    "read",
    "require_folder",
    "shown",
    "size",
]

MOST_NAMES: Final = 4_000_000  # of one folder; a full folder of segments has fewer
_HANDLE: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_QUIET: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # not to wait for the other end of a pipe
_LONGEST_SHOWN: Final = 80
_WAY_OUT: Final = "somebody put it there: look who can write to this folder, then move it away"
_distrusted: set[str] = set()


def distrust(folder: Path) -> None:
    """Follow no link below `folder` from now on, in this process, whoever asks. May be repeated."""
    _distrusted.add(os.path.abspath(folder))  # noqa: PTH100  the folder's own link is its owner's


def _place(path: Path) -> tuple[str, list[str]]:
    """The nearest distrusted folder above a path, and the names from there on; none where there is no such folder."""
    whole = os.path.abspath(path)  # noqa: PTH100
    root = os.path.dirname(whole)  # noqa: PTH120
    while len(root) > 1:
        if root in _distrusted:
            return root, list(Path(whole[len(root) + 1 :]).parts)
        root = os.path.dirname(root)  # noqa: PTH120
    return "", []


def link_error(path: Path | str) -> OSError:
    """What a system call on something that is reached through a link, or is no file, fails with: ELOOP."""
    return OSError(errno.ELOOP, "a link or something else that is no file stands there", str(path))


@contextlib.contextmanager
def below(path: Path) -> Iterator[tuple[int | None, str]]:
    """Hold the folder of `path` open while the block runs: its handle, and the name in it; for a path that is not below
    a distrusted folder None, and the path.

    Raises OSError: ELOOP where a link or a file stands in for one of the folders between.
    """
    root, parts = _place(path)
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


def look(path: Path) -> os.stat_result | None:
    """What stands under a name, itself, not what it leads to; None where nothing does, or a link is on the way."""
    try:
        with below(path) as (handle, name):
            return os.stat(name, dir_fd=handle, follow_symlinks=handle is None)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return None
        raise


def exists(path: Path) -> bool:
    """Whether anything stands under this name: a link too, wherever it leads."""
    return look(path) is not None


def is_folder(path: Path) -> bool:
    """Whether a folder stands there, not a link to one."""
    found = look(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def require_folder(path: Path) -> None:
    """Raise IntegrityError where something else than a folder stands there; FileNotFoundError where nothing does."""
    with _told(path), below(path) as (handle, name):
        found = os.stat(name, dir_fd=handle, follow_symlinks=handle is None)
        if not stat.S_ISDIR(found.st_mode):
            raise planted(path, found, "folder")


def size(path: Path) -> int:
    """The bytes of a file. Raises as `descriptor`, but opens nothing."""
    with _told(path), below(path) as (handle, name):
        found = os.stat(name, dir_fd=handle, follow_symlinks=handle is None)
        if not stat.S_ISREG(found.st_mode):
            raise planted(path, found, "file")
        return found.st_size


def names(folder: Path, most: int = MOST_NAMES) -> list[str]:
    """The names in a folder, in no order. Raises IntegrityError where it is none, a link, or holds more than `most`."""
    with _told(folder), below(folder) as (handle, name):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if handle is None else os.O_NOFOLLOW)
        try:
            inside = os.open(name, flags, dir_fd=handle)
        except NotADirectoryError as error:
            raise link_error(folder) from error
        try:
            found: list[str] = []
            with os.scandir(inside) as entries:
                for entry in entries:
                    found.append(entry.name)
                    if len(found) > most:
                        raise IntegrityError(f"{shown(folder)} holds more than {most} entries", hint=_WAY_OUT)
            return found
        finally:
            os.close(inside)


def descriptor(path: Path) -> int:
    """Open a file to be read: its descriptor, which the caller closes.

    Raises IntegrityError where it is no regular file, or a link, or reached through one; else what the system says:
    FileNotFoundError, PermissionError.
    """
    with _told(path), below(path) as (handle, name):
        if handle is None:
            found = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        else:
            before = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode):  # a device may act when it is opened
                raise planted(path, before, "file")
            found = os.open(name, os.O_RDONLY | _QUIET, dir_fd=handle)
        about = os.fstat(found)
        if not stat.S_ISREG(about.st_mode):
            os.close(found)
            raise planted(path, about, "file")
        return found


def opened(path: Path) -> BinaryIO:
    """As `descriptor`, as a file object."""
    return os.fdopen(descriptor(path), "rb")


def read(path: Path, most: int) -> bytes:
    """A whole file of at most `most` bytes. Raises as `descriptor`, and IntegrityError for a larger one, unread."""
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise IntegrityError(
                f"{shown(path)} has more than the {most} bytes that Coffer ever writes there", hint=_WAY_OUT
            )
        return file.read(most)


def create(path: Path) -> int:
    """Make a file, mode 0600, that is not there yet, and open it to be read and written: its descriptor. Nothing is
    durable. Raises OSError."""
    with below(path) as (handle, name):
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _QUIET, 0o600, dir_fd=handle)


def shown(name: Path | str) -> str:
    """A name for people, whatever bytes it has: control characters and what is no text escaped, a long one cut."""
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(name))
    return text if len(text) <= 4 * _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...{text[-_LONGEST_SHOWN:]}"


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Raise ELOOP as what it is here: something was planted."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ELOOP:
            error.filename = str(path)
            raise
        raise IntegrityError(f"{shown(path)} is a link, or reached through one", hint=_WAY_OUT) from error


def planted(path: Path, found: os.stat_result, wanted: str) -> IntegrityError:
    """The error for something that is not what is `wanted` under this name."""
    return IntegrityError(f"{shown(path)} is {kind(found)}, not a {wanted}", hint=_WAY_OUT)


def kind(found: os.stat_result) -> str:
    """What something is, in words."""
    return {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }.get(stat.S_IFMT(found.st_mode), "a device")
