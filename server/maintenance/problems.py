"""Objects that an administrator should review: those that could not be indexed, and those with several versions.

Rule: reads only. Unindexed objects are found by the flag in the log's headers, conflicts through the index. Both lists
take time in proportion to the archive and are made only on request.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from coffer.archive.format.record import Flags, Kind
from coffer.index.dicom.attributes import STUDY_UID
from coffer.index.instance.object_meta import ObjectMeta
from coffer.index.instance.succession import Succeeding, broken
from coffer.index.tables.rows import Version
from coffer.keys.errors import CofferError, SupersededError
from coffer.keys.keyring import rekey, shred
from coffer.server.engine.archive import ReadableArchive
from coffer.server.maintenance.version_order import contradiction

__all__ = ["Conflict", "Unindexed", "conflicts", "unindexed"]


@dataclass(frozen=True, slots=True)
class Unindexed:
    """An object whose header could not be read to its end: its record, and its UID or why that cannot be opened."""

    seq: int
    sop_instance: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """An instance that was received in several versions: its UIDs, the record of each, newest last, and what is wrong
    with their order."""

    study_uid: str
    sop_instance: str
    records: tuple[int, ...]
    contradictions: tuple[str, ...] = ()


def unindexed(archive: ReadableArchive) -> Iterator[Unindexed]:
    """Yield every object that was stored as received because its header could not be read."""
    elsewhere = rekey.inactive_keys(archive.keyring)
    for position, header in archive.reader.records():
        if header.kind != Kind.OBJECT or not header.flags & Flags.UNINDEXED or header.study_key_id in elsewhere:
            continue
        version = Version.of(position, header.time_ms, header.content_id, "", 0, header.time_ms, header.flags)
        try:
            with archive.open_body(header.study_key_id, version) as body:
                name = ObjectMeta.decode(body.meta).sop_instance
        except SupersededError:
            continue  # a later record holds the same object
        except CofferError as error:
            name = f"cannot be opened: {error}"
        yield Unindexed(header.seq, name)


def conflicts(archive: ReadableArchive) -> Iterator[Conflict]:
    """Yield every instance with several versions, in any part of its study; `coffer versions` shows the one served.

    Versions that do not name the one before them contradict the log's order. Where any key was destroyed, one may name
    a version that is gone: only `coffer verify --level decrypt` knows where in the log that can be.
    """
    is_lost = bool(shred.tombstones(archive.keyring))
    uids = dict.fromkeys(str(row[STUDY_UID][0]) for row in archive.index.query("STUDY", {STUDY_UID: ()}, "study"))
    for uid in uids:
        if not any(part.superseded for part in archive.index.parts(uid)):
            continue
        for found in archive.index.locate({STUDY_UID: (uid,)}):
            chain = [
                each.located.version
                for each in archive.index.versions(found.sop_instance)
                if (each.located.study_uid, each.located.series_uid) == (uid, found.series_uid)
            ]
            if len(chain) > 1:
                links = (Succeeding(v.order, v.seq, v.first_content_id, v.previous) for v in chain)
                wrong = tuple(f"record {b.seq}: {contradiction(b)}" for b in broken(links, lambda *_: is_lost))
                yield Conflict(uid, found.sop_instance, tuple(v.seq for v in chain), wrong)
