"""Hold a certificate of erasure against the log, without any key: is what it names there, and nothing behind it?"""

from collections.abc import Iterator

from archive.certificate import Certificate, runs
from archive.checkpoint import open_checkpoint
from archive.evidence import Consistency
from archive.folder import ArchiveFolder
from archive.reader import LogReader
from archive.record import Kind
from keys.errors import HistoryError, NotFoundError

__all__ = ["contradictions"]


def contradictions(found: Certificate, folder: ArchiveFolder) -> Iterator[str]:
    """What the log says otherwise; reads every record's header.

    Raises HistoryError where the log does not begin with what the certificate's checkpoint signed, NotFoundError where
    nothing was signed, IntegrityError where the log is damaged.
    """
    note = found.checkpoint.encode()
    size = open_checkpoint(note, folder).size
    _require_extended(folder, note, size)
    under: dict[bytes, list[int]] = {bytes.fromhex(each.key): [] for each in found.keys}
    later = 0
    reader = LogReader(folder)
    try:
        for _, header in reader.records():
            if header.kind != Kind.OBJECT or header.study_key_id not in under:
                continue
            if header.seq < size:
                under[header.study_key_id].append(header.seq)
            else:
                later += 1
    finally:
        reader.close()
    for each in found.keys:
        if runs(under[bytes.fromhex(each.key)]) != each.objects:
            yield f"the log has other objects under key {each.key[:8]} than the certificate covers"
    if later and found.is_effective:  # before, a store that was under way may have come to its end
        yield f"{later} objects were stored under the key since: the key lives"


def _require_extended(folder: ArchiveFolder, note: bytes, size: int) -> None:
    try:
        latest = folder.checkpoint.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError("nothing was signed in this copy", hint="name a whole copy of the archive") from error
    held = open_checkpoint(latest, folder).size
    if held < size:
        raise HistoryError(
            f"this copy of the log is older than the certificate: it covers {held} records, the certificate {size}",
            hint="name a newer copy; where this is the archive itself, coffer recover show tells more",
        )
    Consistency.make(folder, note, latest)
