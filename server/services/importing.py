"""Import Part 10 files into the archive: the door of `coffer put`.

Rule: the data set's bytes are stored as they are in the file; preamble and file meta are kept beside them so that the
file can be written again. What is not stored has a reason. `server.services.media` walks folders.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from coffer.index.dicom.headers import scan
from coffer.keys.errors import (
    CofferError,
    InputError,
    IntegrityError,
    KeyUnavailableError,
    MismatchError,
    UnavailableError,
)
from coffer.server.access.principal import Principal
from coffer.server.observe.logs import get_logger
from coffer.server.services.api import StoreOutcome, StoreRequest
from coffer.server.services.bundle import WriterServices
from coffer.server.services.part10 import MEDIA_DIRECTORY, Part10, read_part10

__all__ = ["Importer", "Outcome", "Result"]

_log = get_logger()

_PIECE: Final = 1 << 20
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_SUFFIXES: Final = frozenset({".dcm", ".dicom", ".ima"})  # whoever named it so will miss it
_IDENTITY_BYTES: Final = 1 << 20  # group 0008 is at the beginning


class Outcome(StrEnum):
    """The outcome for one file."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    SKIPPED = "skipped"  # DICOM, or named so, and what storing it needs is missing
    IGNORED = "ignored"  # not DICOM, or a DICOMDIR whose folder is read
    FAILED = "failed"
    DIRECTORY = "directory"  # a DICOMDIR: not an object, but it refers to some


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome for one file, the reason if it was not stored, the data set's length in bytes, and whether it failed
    for want of something (disk, key) that may be available the next time."""

    path: Path
    outcome: Outcome
    reason: str = ""
    size: int = 0
    is_shortage: bool = False


class Importer:
    """Imports single files into an archive that is open for writing. Safe to use from many threads."""

    def __init__(self, services: WriterServices, caller: Principal) -> None:
        self._services = services
        self._caller = caller

    def put(self, path: Path) -> Result:
        """Store one file; durable on return of STORED or DUPLICATE.

        Raises UnavailableError if the archive cannot continue, IntegrityError if it is not what was written. The
        content of a file never raises: the files after it are imported whatever its outcome.
        """
        try:
            with path.open("rb") as file:
                found = read_part10(file)
                if found is None:
                    is_named_so = path.suffix.lower() in _SUFFIXES
                    return Result(path, Outcome.SKIPPED if is_named_so else Outcome.IGNORED, "not DICOM")
                if found.sop_class == MEDIA_DIRECTORY:
                    return Result(path, Outcome.DIRECTORY)
                file.seek(found.start)
                return self._put(path, found)
        except InputError as error:
            return Result(path, Outcome.SKIPPED, str(error))
        except OSError as error:
            return Result(path, Outcome.FAILED, error.strerror or "cannot be read")
        except CofferError:
            raise
        except Exception as error:  # noqa: BLE001  # one file must not take the others with it
            _log.exception("a file was not imported: internal error", name="file.import_failed")
            return Result(path, Outcome.FAILED, f"internal error: {type(error).__name__}")

    def _put(self, path: Path, found: Part10) -> Result:
        """Store it under the identity of the file meta, or of the data set if the former is missing or wrong."""
        claimed = bool(found.sop_class and found.sop_instance)  # however odd: a C-STORE takes it, too
        own = None if claimed else self._identity(path, found)
        sop_class, sop_instance = own or (found.sop_class, found.sop_instance)
        if not claimed and own is None:
            return Result(path, Outcome.SKIPPED, "no SOP Instance UID")
        outcome, size = self._send(path, found, sop_class, sop_instance, keep_meta=claimed)
        if isinstance(outcome.error, MismatchError) and claimed and (own := self._identity(path, found)):
            outcome, size = self._send(path, found, *own, keep_meta=False)
        if isinstance(outcome.error, IntegrityError):
            raise outcome.error  # not of this file: of the archive, where nothing more may be stored
        if outcome.error is not None:
            is_shortage = isinstance(outcome.error, UnavailableError | KeyUnavailableError)
            return Result(path, Outcome.FAILED, str(outcome.error), size, is_shortage)
        return Result(path, Outcome.DUPLICATE if outcome.duplicate else Outcome.STORED, size=size)

    def _identity(self, path: Path, found: Part10) -> tuple[str, str] | None:
        """SOP Class and Instance UID of the data set; None if it lacks one."""
        with path.open("rb") as file:
            file.seek(found.start)
            data = file.read(_IDENTITY_BYTES)
        header = scan(
            lambda start, stop: data[start:stop], len(data), found.transfer_syntax, self._services.archive.limits
        )
        sop_class, sop_instance = header.text(_SOP_CLASS), header.text(_SOP_INSTANCE)
        return (sop_class, sop_instance) if sop_class and sop_instance else None

    def _send(
        self, path: Path, found: Part10, sop_class: str, sop_instance: str, *, keep_meta: bool
    ) -> tuple[StoreOutcome, int]:
        reception = self._services.ingest.begin(
            StoreRequest(
                sop_class=sop_class,
                sop_instance=sop_instance,
                transfer_syntax=found.transfer_syntax,
                caller=self._caller,
                file_meta=found.file_meta if keep_meta and found.file_meta else None,
                preamble=found.preamble or None,
            )
        )
        size = 0
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(found.start)
                while piece := file.read(_PIECE):
                    reception.write(piece)
                    size += len(piece)
        except BaseException:
            reception.abort()
            raise
        return reception.finish(), size
