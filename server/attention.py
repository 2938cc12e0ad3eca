"""Which objects an administrator should look at: those that could not be indexed, and those with several contents.

Rule: reads only. Unindexed objects are found by the flag in the log's headers, conflicts by the index; both lists cost
time in proportion to the archive and are made only when they are asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from archive.record import Flags, Kind
from index.attributes import STUDY_UID
from index.objectmeta import ObjectMeta
from index.rows import Version
from keys import rekey
from keys.errors import CofferError, SupersededError
from server.engine import Engine

__all__ = ["Conflict", "Unindexed", "conflicts", "unindexed"]


@dataclass(frozen=True, slots=True)
class Unindexed:
    """An object whose header could not be read to its end: its record, and its UID as far as it can be opened."""

    seq: int
    sop_instance: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """An instance that was received with different bytes: its UIDs, and the record of each content, newest last."""

    study_uid: str
    sop_instance: str
    records: tuple[int, ...]


def unindexed(engine: Engine) -> Iterator[Unindexed]:
    """Every object that was stored as received because its header could not be read."""
    elsewhere = rekey.passed_over(engine.keyring)
    for position, header in engine.reader.records():
        if header.kind != Kind.OBJECT or not header.flags & Flags.UNINDEXED or header.study_key_id in elsewhere:
            continue
        version = Version.of(position, header.content_id, "", 0, header.time_ms, header.flags)
        try:
            with engine.open_body(header.study_key_id, version) as body:
                name = ObjectMeta.decode(body.meta).sop_instance
        except SupersededError:
            continue  # the same object stands in a later record
        except CofferError as error:
            name = f"cannot be opened: {error}"
        yield Unindexed(header.seq, name)


def conflicts(engine: Engine) -> Iterator[Conflict]:
    """Every instance of which more than one content is kept; the newest is the one that is handed out."""
    for study in engine.index.query("STUDY", {STUDY_UID: ()}, "study"):
        uid = str(study[STUDY_UID][0])
        for found in engine.index.locate({STUDY_UID: (uid,)}):
            if len(found.versions) > 1:
                yield Conflict(uid, found.sop_instance, tuple(v.seq for v in found.versions))
