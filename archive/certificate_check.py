"""Check a certificate of erasure against the log, without any key: whether the log holds what it names, and no more."""

from collections.abc import Iterator

from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.certificate import Certificate, runs
from coffer.archive.tree.checkpoint import Checkpoint, open_checkpoint
from coffer.keys.errors import HistoryError

__all__ = ["contradictions"]


def contradictions(found: Certificate, folder: ArchiveFolder) -> Iterator[str]:
    """Every contradiction between certificate and log; reads every record's header, and no body.

    Raises HistoryError if the log does not begin with what the certificate's checkpoint signed, IntegrityError if it is
    damaged.
    """
    signed = open_checkpoint(found.checkpoint.encode(), folder)
    under: dict[bytes, list[int]] = {bytes.fromhex(each.key): [] for each in found.keys}
    for header in _headers(folder, signed):
        if header.kind == Kind.OBJECT and header.study_key_id in under:
            under[header.study_key_id].append(header.seq)
    later = 0
    for each in found.keys:
        numbers = under[bytes.fromhex(each.key)]
        later += sum(number >= signed.size for number in numbers)
        if runs(number for number in numbers if number < signed.size) != each.objects:
            yield f"the log has other objects under key {each.key[:8]} than the certificate covers"
    if later and found.is_effective:  # while only scheduled, a store in progress may still have completed
        yield f"{later} objects were stored under the key since: the key still exists"


def _headers(folder: ArchiveFolder, signed: Checkpoint) -> Iterator[RecordHeader]:
    """Every record's header; the first `signed.size` of them are checked against the root that was signed."""
    reader, tree = LogReader(folder), Frontier()
    try:
        for _, header in reader.records():
            yield header
            if tree.size < signed.size:
                tree.append(leaf_hash(header.serialize()))
    finally:
        reader.close()
    if tree.size < signed.size:
        raise HistoryError(
            f"this log ends at {tree.size} records, but the certificate was made over {signed.size}",
            hint="name a newer copy; if this is the archive itself, see coffer recover show",
        )
    if tree.root() != signed.root:
        raise HistoryError(
            f"the first {signed.size} records of this log are not those that the certificate was made over",
            hint="keep both as evidence; see coffer verify and coffer recover show",
        )
