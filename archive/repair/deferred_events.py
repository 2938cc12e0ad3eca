"""Events of offline repairs and recoveries that are not in the log yet: stored first, recorded at the next opening.

Rule: a repair needs no key, but a record of it does. So the event of the act, numbers and hashes only, waits in a small
file until a writer with keys opens the archive; an interruption in between loses neither. The event of an act that was
never carried out is dropped. A recovery has the keys at hand, and signs its event: nobody without them can plant one.
Repairs can be planted, so whatever lies there never stands in the way of an act: it makes room in lost+found.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from coffer.archive.events import codec
from coffer.archive.events.repairs import LossAccepted, Repair, SegmentRepaired, SegmentsTaken
from coffer.archive.format.record import Kind
from coffer.archive.store import checksummed_json
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG
from coffer.archive.tree.checkpoint import latest_note
from coffer.archive.tree.key_history import read_key_history
from coffer.keys.crypto.signing import CheckpointSigner, is_signed_by
from coffer.keys.disk import opening
from coffer.keys.disk.durable import keep, move, remove, replace, spare
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, InputError, IntegrityError

_LONGEST: Final = 64 << 20  # an event names each record that a repair took from a copy
_MOST: Final = 1000
_PROOF: Final = re.compile(r"note:[0-9a-f]{64}|segment:[0-9]{1,8}:[0-9A-Za-z._-]{0,200}")


@dataclass(frozen=True, slots=True)
class DeferredEvent:
    """An event to record, and the evidence that the act was carried out (`proof`).

    `note:<SHA-256>`: the latest signed checkpoint is this note. `segment:<number>:<name>`: the segment was installed,
    and the old file, if there was one, is in lost+found under that name. `signature` is that of a recovery's event by
    the archive's signing key; a repair, which needs no key, has none.
    """

    event: Repair
    proof: str
    signature: bytes = b""

    @classmethod
    def signed(cls, signer: CheckpointSigner, folder: ArchiveFolder, event: Repair, proof: str) -> Self:
        """The event of a recovery, signed for this archive."""
        return cls(event, proof, signer.sign_statement(_statement(folder, event, proof)))

    def is_genuine(self, folder: ArchiveFolder) -> bool:
        """Whether a repair told it, or a recovery that had a signing key of this archive. Raises IntegrityError for
        endorsements that cannot be read."""
        if isinstance(self.event, SegmentRepaired):
            return not self.signature
        statement = _statement(folder, self.event, self.proof)
        return any(is_signed_by(vkey, statement, self.signature) for vkey in read_key_history(folder).vkeys)

    @property
    def digest(self) -> bytes:
        """32 bytes that are the same for the same act, however often it was begun."""
        return hashlib.sha256(codec.encode(self.event) + b"\0" + self.proof.encode()).digest()

    def was_done(self, folder: ArchiveFolder) -> bool:
        """Whether the act was carried out, and not interrupted before."""
        kind, _, rest = self.proof.partition(":")
        if kind == "note":
            return hashlib.sha256(latest_note(folder)).hexdigest() == rest
        number, _, kept = rest.partition(":")
        return folder.segment_store().was_replaced(LOG, int(number), kept)


def _statement(folder: ArchiveFolder, event: Repair, proof: str) -> bytes:
    return b"coffer/recovery/v1\0" + folder.archive_id + codec.encode(event) + b"\0" + proof.encode()


def _path(folder: ArchiveFolder) -> Path:
    return folder.path / "pending.json"


def defer(folder: ArchiveFolder, events: list[DeferredEvent], calls: Syscalls = SYSTEM) -> None:
    """Store the events of acts that are about to be carried out, after those already stored, each act once; durable on
    return. If what is stored cannot be parsed, or leaves no room, it is moved to lost+found first, but for signed ones.

    Raises FormatError if an event is too long, InputError if there are too many.
    """
    if not _is_room(events):
        raise InputError("too much is repaired at once to be recorded", hint="name some records, then the others")
    try:
        waiting = read_deferred(folder)
        is_kept = _is_room([*waiting, *events])
    except FormatError:
        waiting, is_kept = [], False
    if not is_kept:
        _make_room(folder, calls)
        waiting = [each for each in waiting if each.signature]
    waiting = waiting if _is_room([*waiting, *events]) else []
    replace(_path(folder), _serialized([*waiting, *events]), calls=calls)


def _is_room(events: list[DeferredEvent]) -> bool:
    return len(_once(events)) <= _MOST and len(_serialized(events)) <= _LONGEST


def _once(events: list[DeferredEvent]) -> list[DeferredEvent]:
    return list({each.digest: each for each in events}.values())


def _serialized(events: list[DeferredEvent]) -> bytes:
    return checksummed_json.serialize(
        [
            {"event": json.loads(codec.encode(each.event)), "proof": each.proof, "signature": each.signature.hex()}
            for each in _once(events)
        ]
    )


def _make_room(folder: ArchiveFolder, calls: Syscalls) -> None:
    """Keep what is stored in lost+found. The file itself stays until it is replaced, if it is one that can be read."""
    path, kept = _path(folder), folder.lost_and_found / _path(folder).name
    try:
        keep(kept, opening.read(path, _LONGEST), calls=calls)
    except IntegrityError:
        move(path, spare(kept), calls=calls)


def read_deferred(folder: ArchiveFolder) -> list[DeferredEvent]:
    """The events that wait to be recorded, each act once. Raises FormatError for any that Coffer would not have
    written."""
    try:
        found = [_parse(row) for row in _rows(checksummed_json.parse(opening.read(_path(folder), _LONGEST)))]
        if all(each.is_genuine(folder) for each in found):
            return _once(found)
        raise FormatError("a recovery in it is not signed by this archive")
    except FileNotFoundError:
        return []
    except (IntegrityError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            f"{_path(folder)} cannot be read", hint="move it away: it only held what a repair or recovery has done"
        ) from error


def _rows(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise FormatError("this is not a list of events")
    return value


def _parse(row: dict[str, object]) -> DeferredEvent:
    """An event of a repair, by its schema, and a proof that names nothing outside its folder."""
    proof = row["proof"]
    if not isinstance(proof, str) or not _PROOF.fullmatch(proof):
        raise FormatError("this is not a proof")
    event = codec.decode(msgspec.json.encode(row["event"], order="sorted"), Kind.REPAIR)
    if not isinstance(event, SegmentRepaired | SegmentsTaken | LossAccepted):
        raise FormatError("this is not an event of a repair")
    return DeferredEvent(event, proof, bytes.fromhex(str(row["signature"])))


def discard_deferred(folder: ArchiveFolder, calls: Syscalls = SYSTEM) -> None:
    """Remove the file once its events are recorded; durable on return."""
    remove(_path(folder), calls=calls)
