"""Hold a certificate of erasure against the log, without any key: is what it names there, and nothing behind it?"""

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
    """What the log says otherwise; reads every record's header, and no body.

    Raises HistoryError where the log does not begin with what the certificate's checkpoint signed, IntegrityError where
    it is damaged.
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
    if later and found.is_effective:  # before, a store that was under way may have come to its end
        yield f"{later} objects were stored under the key since: the key lives"


def _headers(folder: ArchiveFolder, signed: Checkpoint) -> Iterator[RecordHeader]:
    """Every record's header, the first `signed.size` of them held against the root that was signed."""
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
            f"this log ends at {tree.size} records, and the certificate was made over {signed.size}",
            hint="name a newer copy; where this is the archive itself, coffer recover show tells more",
        )
    if tree.root() != signed.root:
        raise HistoryError(
            f"the first {signed.size} records of this log are not those that the certificate was made over",
            hint="keep both, they are evidence; coffer verify and coffer recover show tell more",
        )
