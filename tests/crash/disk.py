"""A disk that may lose power: what of the calls made so far is stable, and what states it may be found in.

Rule: it promises less than any real file system. Until its file was synced, each 512-byte piece of a write may be there
or not, by itself; the size may be any that a piece or a truncation gave; until its folder was synced, each change of a
name may be there or not, a new folder with all that is in it. A rename is whole or not at all. What was synced stays.

A sync may fail: then the device keeps some pieces and the kernel forgets that the others were never written, while it
goes on showing all of them from its cache until that is dropped (Rebello et al., ATC 2020).
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512


@dataclass(slots=True)
class Inode:
    """One file's content: what is stable, and what was done since, in order."""

    stable: bytes = b""
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)  # (offset, data), or a length to cut to

    def now(self) -> bytes:
        """What a running system sees."""
        return self._play(self.pending)

    def lose(self, rng: random.Random) -> None:
        """A sync failed: what the device has is settled now, whatever the cache shows."""
        self.stable, self.pending = self.after_crash(rng), []

    def after_crash(self, rng: random.Random) -> bytes:
        """What may be found after the power came back."""
        if not self.pending:
            return self.stable
        how = rng.random()
        if how < 0.2:
            return self.stable
        if how < 0.3:
            return self.now()
        kept: list[tuple[int, bytes] | int] = []
        share = rng.choice((0.1, 0.5, 0.9))
        for change in self.pending:
            if isinstance(change, int):
                if rng.random() < 0.5:
                    kept.append(change)
                continue
            kept += [piece for piece in _pieces(*change) if rng.random() < share]
        found = self._play(kept)
        if rng.random() < 0.3:  # the size went to disk before the data
            found = found.ljust(len(self.now()), b"\0")
        return found

    def _play(self, changes: Sequence[tuple[int, bytes] | int]) -> bytes:
        data = bytearray(self.stable)
        for change in changes:
            if isinstance(change, int):
                del data[change:]
                continue
            at, new = change
            if len(data) < at:
                data += bytes(at - len(data))
            data[at : at + len(new)] = new
        return bytes(data)


def _pieces(at: int, data: bytes) -> list[tuple[int, bytes]]:
    """A write, cut where sectors end."""
    out, start = [], 0
    while start < len(data):
        size = SECTOR - (at + start) % SECTOR
        out.append((at + start, data[start : start + size]))
        start += size
    return out


@dataclass(slots=True)
class Disk:
    """All files below one folder, by path relative to it."""

    inodes: dict[int, Inode] = field(default_factory=dict)
    stable: dict[str, int] = field(default_factory=dict)  # name to inode, as of the last sync of its folder
    names: dict[str, int] = field(default_factory=dict)  # as a running system sees them
    pending: list[tuple[str, str, int]] = field(default_factory=list)  # what, name, inode; what is "put" or "drop"
    folders: set[str] = field(default_factory=set)
    new_folders: set[str] = field(default_factory=set)  # those of them whose own folder was not synced since

    @classmethod
    def of(cls, root: Path) -> Disk:
        """The disk as it is in a folder, all of it stable."""
        disk = cls()
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_dir():
                disk.folders.add(name)
            else:
                disk.inodes[len(disk.inodes)] = Inode(path.read_bytes())
                disk.stable[name] = disk.names[name] = len(disk.inodes) - 1
        return disk

    def create(self, name: str) -> int:
        self.inodes[len(self.inodes)] = Inode()
        self.put(name, len(self.inodes) - 1)
        return len(self.inodes) - 1

    def put(self, name: str, inode: int) -> None:
        self.names[name] = inode
        self.pending.append(("put", name, inode))

    def drop(self, name: str) -> None:
        self.pending.append(("drop", name, self.names.pop(name)))

    def rename(self, source: str, target: str) -> None:
        inode = self.names.pop(source)
        self.names[target] = inode
        self.pending.append((f"move {source}", target, inode))

    def rename_folder(self, source: str, target: str) -> None:
        change = (f"folder {source}", target, 0)
        self._apply(self.names, change)
        self.pending.append(change)
        self.folders = {_moved(folder, source, target) for folder in self.folders}

    def sync(self, inode: int) -> None:
        file = self.inodes[inode]
        file.stable, file.pending = file.now(), []

    def sync_folder(self, folder: str) -> None:
        """Make the names in one folder stable."""
        self.new_folders = {name for name in self.new_folders if str(Path(name).parent) != folder}
        left = []
        for change in self.pending:
            _, name, _ = change
            if str(Path(name).parent) == folder:
                self._apply(self.stable, change)
            else:
                left.append(change)
        self.pending = left

    @staticmethod
    def _apply(names: dict[str, int], change: tuple[str, str, int]) -> None:
        what, name, inode = change
        if what == "drop":
            names.pop(name, None)
            return
        if what.startswith("folder "):
            for below in [each for each in names if _is_below(each, {what.removeprefix("folder ")})]:
                names[_moved(below, what.removeprefix("folder "), name)] = names.pop(below)
            return
        names[name] = inode
        if what.startswith("move "):
            source = what.removeprefix("move ")
            if names.get(source) == inode:
                del names[source]

    def materialise(self, root: Path, rng: random.Random) -> None:
        """Write one of the states in which the power may have left it."""
        names, folders = dict(self.stable), self.folders
        share = rng.choice((0.0, 0.5, 1.0))
        for change in self.pending:
            if rng.random() < share:
                self._apply(names, change)
            elif change[0].startswith("folder "):
                folders = {_moved(folder, change[1], change[0].removeprefix("folder ")) for folder in folders}
        lost = {folder for folder in self.new_folders if rng.random() >= share}
        for folder in sorted(folders):
            if not _is_below(folder, lost):
                (root / folder).mkdir(parents=True, exist_ok=True)
        for name, inode in names.items():
            if not _is_below(name, lost):
                (root / name).write_bytes(self.inodes[inode].after_crash(rng))
                (root / name).chmod(0o600)


def _is_below(name: str, lost: set[str]) -> bool:
    return bool(lost) and any(name == folder or name.startswith(folder + "/") for folder in lost)


def _moved(name: str, source: str, target: str) -> str:
    return target + name.removeprefix(source) if _is_below(name, {source}) else name


class Recorder:
    """System calls that are made for real below `root`, and told to a `Disk`.

    A subclass looks at the disk after each call in `_done`, says in `_taken` how much of a write the kernel takes, and
    in `_fails` whether a sync fails. `release` closes what a killed process leaves open.
    """

    def __init__(self, root: Path, disk: Disk, rng: random.Random | None = None) -> None:
        self.root, self.disk = root, disk
        self.calls = 0
        self._rng = rng or random.Random(0)
        self._files: dict[int, tuple[int, int]] = {}  # descriptor: inode, place
        self._folders: dict[int, str] = {}

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _done(self) -> None:
        self.calls += 1

    def _taken(self, data: bytes) -> int:
        return len(data)

    def _fails(self) -> bool:
        return False

    def release(self) -> None:
        for fd in [*self._files, *self._folders]:
            self.close(fd)

    def open(self, path: Path, flags: int, mode: int) -> int:
        fd = os.open(path, flags, mode)
        name = self._name(path)
        if flags & os.O_DIRECTORY:
            self._folders[fd] = name
        else:
            is_new = flags & os.O_EXCL or name not in self.disk.names
            self._files[fd] = (self.disk.create(name) if is_new else self.disk.names[name], 0)
        self._done()
        return fd

    def writev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        data = b"".join(buffers)
        data = data[: self._taken(data)]
        os.write(fd, data)
        inode, at = self._files[fd]
        self.disk.inodes[inode].pending.append((at, data))
        self._files[fd] = (inode, at + len(data))
        self._done()
        return len(data)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        count = os.pwrite(fd, data, offset)
        self.disk.inodes[self._files[fd][0]].pending.append((offset, bytes(data[:count])))
        self._done()
        return count

    def fsync(self, fd: int) -> None:
        fails = self._fails()
        if fd in self._files:
            inode = self.disk.inodes[self._files[fd][0]]
            if fails:
                inode.lose(self._rng)
            else:
                self.disk.sync(self._files[fd][0])
        elif not fails:
            self.disk.sync_folder(self._folders[fd])
        self._done()
        if fails:
            raise OSError(errno.EIO, "the device says no")

    fdatasync = fsync

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        """The cache is dropped: what is read from now on is what the device has."""
        inode = self.disk.inodes[self._files[fd][0]]
        if (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED) and not inode.pending:
            again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
            os.ftruncate(again, len(inode.stable))
            os.pwrite(again, inode.stable, 0)
            os.close(again)

    def ftruncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)
        self.disk.inodes[self._files[fd][0]].pending.append(length)
        self._done()

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        at = os.lseek(fd, offset, whence)
        if fd in self._files:
            self._files[fd] = (self._files[fd][0], at)
        return at

    def close(self, fd: int) -> None:
        if self._files.pop(fd, None) or self._folders.pop(fd, None):
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)  # noqa: PTH104  as the product calls it
        move = self.disk.rename_folder if target.is_dir() else self.disk.rename
        move(self._name(source), self._name(target))
        self._done()

    def mkdir(self, path: Path, mode: int) -> None:
        os.mkdir(path, mode)  # noqa: PTH102
        self.disk.folders.add(self._name(path))
        self.disk.new_folders.add(self._name(path))
        self._done()

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)
        self.disk.put(self._name(target), self.disk.names[self._name(source)])
        self._done()

    def unlink(self, path: Path) -> None:
        os.unlink(path)  # noqa: PTH108
        self.disk.drop(self._name(path))
        self._done()

    def rmdir(self, path: Path) -> None:
        """It may be back after a power cut, empty: nobody is told otherwise."""
        os.rmdir(path)  # noqa: PTH106
        self._done()
