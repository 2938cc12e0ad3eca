"""Bring one study back from a snapshot, as files: its headers prove themselves by the signed root, its objects by keys.

Rule: it opens with the keys that the archive has now, or with the newest copy of the keyring if the archive is gone,
never with those of the snapshot's time: what was erased since stays erased.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from coffer.archive.body.sealed_body import BodyContext, BodyReader
from coffer.archive.copies.keyring_copies import KeyringCopies
from coffer.archive.copies.segments import SnapshotSegments, as_archive
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Snapshot
from coffer.archive.copies.target import Target
from coffer.archive.events.officer import Officer
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.repairs import ObjectsRestored
from coffer.archive.format.entry import OWN_LOG, Position
from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.archive.tree.leaves import Leaves
from coffer.index.dicom.attributes import SERIES_UID, SOP_INSTANCE, STUDY_UID
from coffer.index.dicom.headers import scan
from coffer.index.instance.entry import Identity, extract
from coffer.index.instance.identity import Patient
from coffer.index.instance.object_meta import ObjectMeta
from coffer.index.instance.order import Order
from coffer.index.query.locate import Located
from coffer.index.tables.rows import Version
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import recipient
from coffer.keys.disk import durable, opening
from coffer.keys.errors import (
    CofferError,
    ConfigError,
    HistoryError,
    IntegrityError,
    KeyUnavailableError,
    NotFoundError,
    ShreddedError,
)
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.server.anchor.trust import Outside
from coffer.server.backup.ranges import RangeSource
from coffer.server.backup.restoring import bring_keyring
from coffer.server.config.settings import Config
from coffer.server.engine.bodies import Bodies
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.engine.rollback import missed
from coffer.server.mailbox import outbox
from coffer.server.services.exporting import Exporter, Written
from coffer.server.services.retrieve import StoredInstance

__all__ = ["SingleStudy", "StudyRestored"]

_UIDS = frozenset({STUDY_UID, SERIES_UID, SOP_INSTANCE})
_Record = tuple[Position, RecordHeader]


@dataclass(frozen=True, slots=True)
class StudyRestored:
    """The files, the objects that could not be written and why, by SOP Instance UID, and whether the archive here
    records it (False: there is none here)."""

    files: tuple[Written, ...]
    failed: tuple[tuple[str, CofferError], ...]
    recorded: bool


@dataclass(slots=True)
class SingleStudy:
    """The way of one study from a snapshot into files below the folder `into`. `keys` is where copies of the keyring
    are, if the archive is not here; `by` is who restores."""

    config: Config
    shelf: Shelf
    snapshot: Snapshot
    into: Path
    by: Officer
    keys: Target | None = None
    identity: recipient.Identity | None = None
    vkey: str = ""
    progress: Callable[[int, int], None] = lambda _done, _total: None
    now_ms: Callable[[], int] = clock_ms

    def run(self, study_uid: str) -> StudyRestored:
        """Write the newest version of every object of the study, each durable and checked against its hash once it has
        its name; the archive here, if there is one, records it.

        Every header of the snapshot is read, and the objects of this study only. Raises NotFoundError if no key opens
        an object of the study, IntegrityError if the headers are not those that were signed, KeyUnavailableError.
        """
        sizes = {each.number: each.blob.size for each in self.snapshot.segments}
        openers = {
            each.number: partial(RangeSource, self.shelf, each.blob, self.snapshot.piece_bytes)
            for each in self.snapshot.segments
        }
        segments = SnapshotSegments({number: (size, openers[number]) for number, size in sizes.items()})
        with as_archive(self.shelf, self.snapshot, segments) as folder, self._keyring(folder) as (keyring, is_here):
            self._require_ours(folder)
            if self._log_here() not in {None, (self.snapshot.size, self.snapshot.root)}:
                raise self._another_log()
            with closing(LogReader(folder)) as reader:
                bodies = Bodies(folder.archive_id, reader, keyring.study)
                records = self._records(study_uid, reader, keyring)
                files, failed = self._write(records, bodies)
            if is_here:
                self._record(keyring, records, len(files))
            return StudyRestored(tuple(files), tuple(failed), is_here)

    @contextmanager
    def _keyring(self, folder: ArchiveFolder) -> Iterator[tuple[Keyring, bool]]:
        """The keyring of the archive here; where there is none, the newest copy, in the snapshot's temporary folder."""
        here = self._here()
        if here is None:
            if self.keys is None:
                raise ConfigError("nobody said where the copy of the keyring is", hint="give --keys TARGET")
            copies = KeyringCopies(Shelf(self.keys, folder.archive_id)).usable()
            if not copies:
                raise NotFoundError(f"there is no copy of the keyring at {self.keys.name}", hint="give another --keys")
            durable.make_folder(folder.keyring)
            bring_keyring(self.keys, copies[-1], folder.archive_id, folder.path, self.identity)
        at = here or folder
        with closing(open_keyring(at, provider_of(self.config.keys, at.archive_id), readonly=here is None)) as keyring:
            if here is not None:
                with closing(LogReader(here)) as log:
                    missed(here, keyring, log).require_none_shredded()
            yield keyring, here is not None

    def _log_here(self) -> tuple[int, bytes] | None:
        """The root of the log of the archive here at the snapshot's size; None if there is none here. A copy that went
        on, as in a restore drill, has the same keys, and everything in its snapshots opens. Raises HistoryError."""
        here = self._here()
        if here is None:
            return None
        if read_checkpoint(here).size < self.snapshot.size:
            raise self._another_log()
        tree = Frontier()
        Leaves(here).grow(tree, self.snapshot.size)
        return tree.size, tree.root()

    def _another_log(self) -> HistoryError:
        return HistoryError(
            f"snapshot {self.snapshot.id} has records that the archive here does not have: "
            "it is of a copy that went on, or the archive here lost something",
            hint="coffer recover show tells whether it did; name another snapshot: coffer backup list",
        )

    def _here(self) -> ArchiveFolder | None:
        """The archive that is configured here, if the snapshot is of it."""
        if not opening.exists(Path(self.config.archive) / "archive.json"):
            return None
        here = ArchiveFolder.open(self.config.archive)
        return here if here.archive_id == self.snapshot.archive_id else None

    def _require_ours(self, folder: ArchiveFolder) -> None:
        signed, outside = read_checkpoint(folder), Outside.of(self.config, folder, self.vkey)
        for what in outside.contradictions(folder):
            raise IntegrityError(what, hint="find out whose snapshot it is")
        if (signed.size, signed.root) != (self.snapshot.size, self.snapshot.root):
            raise IntegrityError("the snapshot's list and its checkpoint differ", hint="take another snapshot")

    def _records(self, study_uid: str, reader: LogReader, keyring: Keyring) -> list[_Record]:
        """The records of the study's objects; all headers are those that were signed."""
        tree, is_wanted, found = Frontier(), dict[bytes, bool](), list[_Record]()
        for position, header in reader.records():
            tree.append(leaf_hash(header.serialize()))
            self.progress(tree.size, self.snapshot.size)
            if header.kind != Kind.OBJECT:
                continue
            if header.study_key_id not in is_wanted:
                is_wanted[header.study_key_id] = _is_of(study_uid, keyring, reader, position, header)
            if is_wanted[header.study_key_id]:
                found.append((position, header))
        if (tree.size, tree.root()) != (self.snapshot.size, self.snapshot.root):
            raise IntegrityError("the snapshot's records are not those that were signed", hint="take another snapshot")
        if not found:
            raise NotFoundError(
                "no key opens an object of this study in the snapshot",
                hint="what was erased, or sealed again under another key since, is not brought back: look for the "
                "study with coffer find, or take a later snapshot",
            )
        return found

    def _write(self, records: list[_Record], bodies: Bodies) -> tuple[list[Written], list[tuple[str, CofferError]]]:
        newest: dict[tuple[bytes, str], tuple[Order, StoredInstance]] = {}
        failed = list[tuple[str, CofferError]]()
        for position, header in records:
            try:
                order, found = _instance(bodies, position, header)
            except CofferError as error:
                failed.append((f"record {header.seq}", error))
                continue
            key = header.study_key_id, found.sop_instance
            if key not in newest or newest[key][0] < order:
                newest[key] = order, found
        exporter, files = Exporter(self.into), list[Written]()
        for _, each in newest.values():
            try:
                files.append(exporter.write(each))
            except CofferError as error:
                failed.append((each.sop_instance, error))
        return files, failed

    def _record(self, keyring: Keyring, records: list[_Record], count: int) -> None:
        """Leave the event for whoever writes the archive; durable on return."""
        chosen = tuple(sorted({header.study_key_id.hex() for _, header in records}))
        event = ObjectsRestored(snapshot=self.snapshot.id, opened_by=chosen, files=count, by=self.by)
        events.leave(keyring, [outbox.enclosed(keyring, Occurrence(event, self.now_ms()))])


def _is_of(study_uid: str, keyring: Keyring, reader: LogReader, position: Position, header: RecordHeader) -> bool:
    """Whether an object is of the study, of whose body only the beginning is read: False where no key opens it."""
    try:
        key = keyring.study(header.study_key_id)
    except (KeyUnavailableError, ShreddedError):
        return False
    context = BodyContext(keyring.archive_id, header.study_key_id, header.content_id, Kind.OBJECT)
    with BodyReader(key.blob, context, reader.range_of(position), header.body_len) as body:
        return ObjectMeta.decode(body.meta).study_uid == study_uid


def _instance(bodies: Bodies, position: Position, header: RecordHeader) -> tuple[Order, StoredInstance]:
    """The object of a record, and its order among versions."""
    with bodies.open(header.study_key_id, header.content_id, position) as body:
        meta = ObjectMeta.decode(body.meta)
        scanned = scan(body.read, body.length, meta.transfer_syntax, wanted=_UIDS)
        length = body.length
    entry = extract(scanned, Identity(meta.sop_class, meta.sop_instance))
    version = Version.of(
        position, header.time_ms, header.content_id, meta.transfer_syntax, length, meta.received_ms, header.flags,
        meta.source_ae,
    )  # fmt: skip
    located = Located(
        entry.study_uid, entry.series_uid, entry.sop_instance, entry.sop_class, header.study_key_id, version,
        (version,), Patient(entry.patient_id, entry.issuer),
    )  # fmt: skip
    return meta.order or Order(header.time_ms, OWN_LOG, header.seq), StoredInstance(bodies, located)
