"""Write stored objects as Part 10 files into a folder: the door of `coffer get`.

Rule: names are made of UIDs only where these are digits and dots, else of numbers; nothing that exists is overwritten;
a file appears under its name when it is complete and its hash was checked. It decides nothing: `retrieve` did.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keys.errors import UnavailableError
from server.part10 import Part10, header_bytes, looks_like_uid
from server.retrieve import StoredInstance

__all__ = ["Exporter", "Written"]

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class Written:
    """One file: where it is, the data set's bytes, and whether it was there before (and was left as it is)."""

    path: Path
    size: int
    existed: bool = False


class Exporter:
    """Writes into one folder: `study UID/series UID/instance UID.dcm`. Used by one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[tuple[str, str], int] = {}

    def write(self, instance: StoredInstance, progress: Callable[[int], None] = lambda _: None) -> Written:
        """Write one object. Raises IntegrityError and its kin, then nothing stands under the name; UnavailableError."""
        located = instance.located
        folder = self._folder / self._name("study", located.study_uid) / self._name("series", located.series_uid)
        target = folder / f"{self._name('instance', instance.sop_instance)}.dcm"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if target.exists():
                return Written(target, instance.length, existed=True)
            return Written(target, self._fill(instance, target, progress))
        except OSError as error:
            raise UnavailableError(
                f"cannot write {target}: {error.strerror}", hint="check the folder, its permissions and the free space"
            ) from error

    def _fill(self, instance: StoredInstance, target: Path, progress: Callable[[int], None]) -> int:
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        meta = instance.meta()
        uids = meta.sop_class, meta.sop_instance, meta.transfer_syntax
        header = Part10(*uids, preamble=meta.preamble or b"", file_meta=meta.file_meta or b"", start=0)
        size = 0
        try:
            with open(os.open(partial, flags, 0o600), "wb") as file:  # noqa: PTH123  a descriptor, not a path
                file.write(header_bytes(header, meta.source_ae))
                for piece in instance.open():
                    file.write(piece)
                    size += len(piece)
                    progress(len(piece))
            _publish(partial, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
        return size

    def _name(self, kind: str, uid: str) -> str:
        if looks_like_uid(uid):
            return uid
        number = self._numbers.setdefault((kind, uid), len(self._numbers) + 1)
        return f"{kind}-{number:04d}"


def _publish(partial: Path, target: Path) -> None:
    """Give a complete file its name, which must be free. Some file systems have no links: there a check must do."""
    try:
        os.link(partial, target)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not target.exists():
            partial.rename(target)
