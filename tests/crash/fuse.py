"""A file system over a folder that remembers what a power cut would leave of it: any program can be put on it.

    python -m tests.crash.fuse MOUNTPOINT FOLDER

Rule: every change is made in FOLDER and told to a `Disk`, one at a time, in the order the kernel gives them; what was
not synced stays pending there. Nothing is kept back from the running system. Lines on standard input:

    cut CALLS FILE    after so many more changes, write the disk as it then is to FILE, with the time (monotonic clock)
    end               unmount

Each is answered by a line on standard output when it is done.
"""

from __future__ import annotations

import copy
import ctypes
import errno
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from tests.crash.disk import Disk

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
from mfusepy import FUSE, FuseOSError, Operations

_STATS: Final = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_atime", "st_mtime", "st_ctime")
_UMOUNT_DETACH: Final = 2


class PowerCut(Operations):  # type: ignore[misc]
    """The operations, by path relative to the mount. Times are in nanoseconds."""

    use_ns = True

    def __init__(self, folder: Path, mountpoint: Path) -> None:
        self._folder = folder
        self._mountpoint = mountpoint
        self._disk = Disk.of(folder)
        self._inodes: dict[int, int] = {}  # descriptor: inode
        self._lock = threading.Lock()
        self._left = -1
        self._out = Path()

    def init(self, path: str) -> None:
        """It is mounted: now commands are taken."""
        threading.Thread(target=self._obey, daemon=True).start()

    def _obey(self) -> None:
        for line in sys.stdin:
            what, *rest = line.split()
            if what != "cut":
                break
            self.cut_in(int(rest[0]), Path(rest[1]))
        unmount(self._mountpoint)

    def cut_in(self, changes: int, out: Path) -> None:
        """Write what a power cut would leave after so many more changes to `out`."""
        with self._lock:
            self._left, self._out = changes, out
            if changes == 0:
                self._write()

    def _write(self) -> None:
        self._left = -1
        made = self._out.with_suffix(".part")
        made.write_bytes(pickle.dumps((time.monotonic(), copy.deepcopy(self._disk))))
        made.rename(self._out)
        print(self._out, flush=True)

    def _done(self) -> None:
        if self._left > 0:
            self._left -= 1
            if self._left == 0:
                self._write()

    def _real(self, path: str) -> Path:
        return self._folder / path.lstrip("/")

    def _opened(self, fd: int, path: str) -> int:
        self._inodes[fd] = self._disk.names[path.lstrip("/")]
        return fd

    # Changes: each is done and told under the lock

    def create(self, path: str, mode: int, fi: object = None) -> int:
        with self._lock:
            fd = os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
            self._disk.create(path.lstrip("/"))
            self._opened(fd, path)
            self._done()
            return fd

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with self._lock:
            count = os.pwrite(fh, data, offset)
            self._disk.inodes[self._inodes[fh]].pending.append((offset, bytes(data[:count])))
            self._done()
            return count

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        with self._lock:
            size = self._real(path).stat().st_size
            os.truncate(self._real(path), length)
            pending = self._disk.inodes[self._disk.names[path.lstrip("/")]].pending
            pending.append(length if length < size else (length, b""))
            self._done()
            return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        with self._lock:
            self._disk.sync(self._inodes[fh])
            self._done()
            return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        with self._lock:
            self._disk.sync_folder(path.lstrip("/") or ".")
            self._done()
            return 0

    def rename(self, old: str, new: str, *_: object) -> int:
        with self._lock:
            self._real(old).rename(self._real(new))
            self._disk.rename(old.lstrip("/"), new.lstrip("/"))
            self._done()
            return 0

    def unlink(self, path: str) -> int:
        with self._lock:
            self._real(path).unlink()
            self._disk.drop(path.lstrip("/"))
            self._done()
            return 0

    def mkdir(self, path: str, mode: int) -> int:
        with self._lock:
            self._real(path).mkdir(mode)
            self._disk.folders.add(path.lstrip("/"))
            self._disk.new_folders.add(path.lstrip("/"))
            self._done()
            return 0

    def link(self, target: str, source: str) -> int:
        with self._lock:
            os.link(self._real(source), self._real(target))
            self._disk.put(target.lstrip("/"), self._disk.names[source.lstrip("/")])
            self._done()
            return 0

    # The rest tells what is there

    def open(self, path: str, flags: int) -> int:
        with self._lock:
            # The kernel writes at the place it names, also for who opened to append; and it syncs for O_DSYNC itself.
            wanted = flags & ~(os.O_APPEND | os.O_DSYNC | os.O_SYNC | os.O_DIRECT)
            return self._opened(os.open(self._real(path), wanted), path)

    def release(self, path: str, fh: int) -> int:
        with self._lock:
            del self._inodes[fh]
            os.close(fh)
            return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        try:
            found = os.lstat(self._real(path))
        except FileNotFoundError:
            raise FuseOSError(errno.ENOENT) from None
        return {name: getattr(found, name + "_ns" if "time" in name else name) for name in _STATS}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._real(path))]  # noqa: PTH208

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._folder)
        return {name: getattr(found, name) for name in ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_frsize")}

    def chmod(self, path: str, mode: int) -> int:
        self._real(path).chmod(mode)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._real(path), ns=times)
        return 0


def unmount(mountpoint: Path) -> None:
    """Take it away, whoever still has it open. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), _UMOUNT_DETACH):
        raise OSError(ctypes.get_errno(), "cannot unmount", str(mountpoint))


def main() -> None:
    """Mount, and serve until told to end."""
    mountpoint, folder = Path(sys.argv[1]), Path(sys.argv[2])
    system = PowerCut(folder, mountpoint)
    FUSE(system, str(mountpoint), foreground=True, nothreads=True, default_permissions=True, fsname="powercut")


if __name__ == "__main__":
    main()
