"""Seal the objects of studies again under new keys, and destroy the old ones (`keys.keyring.rekey`,
docs/adr/0008-rekey.md).

Rule: new key, new records, the switch to them with its event, index, end of the old key: each is durable before the
next begins. Stores continue meanwhile; they wait only while the last objects to arrive are sealed again and the index
changes over, so that everything the old key sealed is under the new one before the old key is destroyed.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec

from coffer.archive.body.reseal import reseal
from coffer.archive.body.sealed_body import BodyContext, BodyReader
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.rekeys import StudyRekeyed
from coffer.archive.format.entry import Entry, Position, RecordId, SealedFile
from coffer.archive.format.record import Flags, Kind
from coffer.archive.reader import LogReader
from coffer.index import rebuild
from coffer.index.instance.object_meta import ObjectMeta
from coffer.index.instance.order import Order
from coffer.index.tables.rows import Version
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.derive import hmac_sha256
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.disk.durable import discard
from coffer.keys.errors import CofferError, IntegrityError, KeyUnavailableError, ShreddedError, UnavailableError
from coffer.keys.keyring import rekey, shred
from coffer.keys.keyring.rekey import NOT_STUCK, Phase, Rekey
from coffer.server.clock.trust import trust
from coffer.server.engine.archive import WritableArchive
from coffer.server.observe.logs import get_logger

__all__ = ["Rekeyer"]

_log = get_logger()

_KEYS_A_SCAN: Final = 1000  # the log's headers are read once for this many studies
_GROUP_OBJECTS: Final = 64
_GROUP_BYTES: Final = 32 << 20
_IN_MEMORY_BYTES: Final = 8 << 20
_FEW: Final = 8  # at most this many objects are sealed while stores wait
_PATIENCE: Final = 10  # rounds in which stores are faster than sealing, before _FEW doubles
_NOTE_SECONDS: Final = 0.5
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class _Stored:
    """One object's record: where it is, the time in its header, its content id, its flags."""

    position: Position
    time_ms: int
    content_id: bytes
    flags: int


class _Records:
    """The objects that the log has under some keys, in order; `read` adds what was appended since."""

    def __init__(self, reader: LogReader, key_ids: Iterable[bytes]) -> None:
        self._reader = reader
        self._last: Position | None = None
        self.objects: dict[bytes, list[_Stored]] = {key_id: [] for key_id in key_ids}
        self.announced: set[bytes] = set()

    def read(self) -> None:
        """Read on to the end of the log. Raises IntegrityError if it is damaged."""
        last = self._last
        for position, header in self._reader.records(0 if last is None else last.seq + 1, behind=last):
            self._last = position
            known = self.objects.get(header.study_key_id)
            if known is None:
                continue
            if header.kind == Kind.OBJECT:
                known.append(_Stored(position, header.time_ms, header.content_id, header.flags))
            elif header.kind == Kind.STUDY_KEY_CREATED:
                self.announced.add(header.study_key_id)


class _Study:
    """One study being rekeyed: which of its objects are sealed again, and where."""

    def __init__(self, job: Rekey, old: StudyKey, new: StudyKey, records: _Records) -> None:
        self.job = job
        self.old = old
        self.new = new
        self.records = records
        self.moved: dict[RecordId, _Stored] = {}  # by the old record

    @property
    def left(self) -> list[_Stored]:
        """The objects that are not sealed again yet, in order."""
        return [each for each in self.records.objects[self.job.old] if each.position.id not in self.moved]


class Rekeyer:
    """Continues every rekey that is under way. One per writer; `pause` keeps commits out while its block runs."""

    def __init__(
        self,
        archive: WritableArchive,
        *,
        pause: Callable[[], AbstractContextManager[None]] = nullcontext,
        grace_seconds: float = 0.0,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """`grace_seconds`: how long an old key stays after the change-over, for retrievals that began before."""
        self._archive = archive
        self._keyring = archive.keyring
        self._pause = pause
        self._grace_seconds = grace_seconds
        self._is_stopping = is_stopping
        self._switched: dict[bytes, float] = {}  # unused old keys, and since when (monotonic seconds)
        self._noted = 0.0

    def run(self, progress: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Do what remains of every rekey; durable on return. `progress` gets objects done and total.

        A study that cannot be sealed again does not stop the others: its key stays, its row names the record, and the
        first such error is raised at the end. Raises UnavailableError if nothing can be written now.
        """
        waiting = [each for each in rekey.under_way(self._keyring) if each.stuck == NOT_STUCK]
        self._each([each for each in waiting if each.old not in self._switched], progress)
        for job in rekey.under_way(self._keyring):
            since = self._switched.get(job.old)
            if since is not None and time.monotonic() - since >= self._grace_seconds:
                self._retire(job)

    def change_over(self) -> None:
        """Complete in the index the rekeys that have already switched to their new records; old keys stay."""
        self._each([each for each in rekey.under_way(self._keyring) if each.phase is Phase.SWITCHED], lambda *_: None)

    def _each(self, jobs: list[Rekey], progress: Callable[[int, int], None]) -> None:
        failed: CofferError | None = None
        done, total = 0, 0
        for start in range(0, len(jobs), _KEYS_A_SCAN):
            some = jobs[start : start + _KEYS_A_SCAN]
            records = _Records(self._archive.reader, (key_id for job in some for key_id in (job.old, job.new)))
            records.read()
            total += sum(len(records.objects[job.old]) for job in some)
            for job in some:
                try:
                    done += self._one(job, records, partial(_advance, progress, done, total))
                except ShreddedError:
                    _log.info("a study was shredded during its rekey", name="rekey.shredded", key=job.old.hex()[:8])
                except (IntegrityError, KeyUnavailableError) as error:
                    failed = failed or error
                    _log.error(
                        "a study keeps its key",
                        name="rekey.study_failed",
                        key=job.old.hex()[:8],
                        cause=str(error),
                        remedy=error.hint(),
                    )
        if failed is not None:
            raise failed

    def _one(self, job: Rekey, records: _Records, progress: Callable[[int], None]) -> int:
        """Bring one study to its change-over; returns how many objects it has."""
        study = _Study(job, self._keyring.study(job.old), self._keyring.study(job.new), records)
        self._recognize(study)
        first, rounds = len(study.left), 0
        while len(study.left) > _FEW << rounds // _PATIENCE:
            self._seal_some(study)
            progress(len(study.moved))
            records.read()
            rounds += len(study.moved) > first  # a sender faster than sealing must wait in the end
        with self._pause():
            records.read()
            while study.left or study.job.new not in records.announced:
                self._seal_some(study)  # the new key is announced even if there is no object
            if study.job.phase is Phase.SEALING:
                count = len(study.moved)
                switched = replace(study.job, phase=Phase.SWITCHED, done=count, total=count)
                study.job = rekey.switch(
                    self._keyring, study.job, switched, [self._archive.enclosed(self._ended(study))]
                )
            self._archive.deliver()  # the log records why the old records no longer open, before that is so
            self._change_over(study)
        progress(len(study.moved))
        self._archive.sign_checkpoint()
        self._switched[job.old] = time.monotonic()
        _log.info(
            "a study has a new key",
            name="rekey.study_finished",
            key=job.old.hex()[:8],
            new_key=job.new.hex()[:8],
            objects=len(study.moved),
        )
        return len(study.moved)

    def _recognize(self, study: _Study) -> None:
        """Find what was sealed again before a stop, by the objects' content ids under the new key."""
        known: dict[bytes, list[_Stored]] = {}
        for each in study.records.objects[study.job.new]:
            known.setdefault(each.content_id, []).append(each)
        for each in study.left if known else ():
            with self._opened(study, each) as body:
                found = known.get(hmac_sha256(study.new.cid, body.sha256))
            if found:
                study.moved[each.position.id] = found.pop(0)

    def _opened(self, study: _Study, stored: _Stored) -> AbstractContextManager[BodyReader]:
        return self._archive.bodies.open(study.job.old, stored.content_id, stored.position)

    def _seal_some(self, study: _Study) -> None:
        """Seal the next objects again and append them together; durable on return."""
        self._keyring.study(study.job.new)  # raises if it was shredded meanwhile: nothing more is written
        entries, files, sources, size = [], [], [], 0
        if study.job.new not in study.records.announced:
            entries.append(Entry(Kind.STUDY_KEY_CREATED, study.job.new, Flags(0), bytes(32), study.new.kcv))
        try:
            for stored in study.left[:_GROUP_OBJECTS]:
                if self._is_stopping():
                    raise UnavailableError("a rekey was stopped", hint="it is resumed when Coffer starts again")
                entry = self._sealed(study, stored)
                files += [entry.body] if isinstance(entry.body, SealedFile) else []
                entries.append(entry)
                sources.append(stored)
                size += stored.position.body_len
                if size >= _GROUP_BYTES:
                    break
            appended = self._archive.log.append(entries)
        finally:
            for file in files:
                discard(file.path)
        for position, _ in appended:
            self._archive.index.cover(position.id, self._archive.log.tip)
        study.records.announced.add(study.job.new)
        placed = zip(appended[len(entries) - len(sources) :], entries[len(entries) - len(sources) :], strict=True)
        for stored, ((position, time_ms), entry) in zip(sources, placed, strict=True):
            study.moved[stored.position.id] = _Stored(position, time_ms, entry.content_id, entry.flags)
        self._note(study)

    def _sealed(self, study: _Study, stored: _Stored) -> Entry:
        job, position = study.job, stored.position
        try:
            with self._opened(study, stored) as body:
                if hmac_sha256(study.old.cid, body.sha256) != stored.content_id:
                    raise IntegrityError("its content id does not match its data set")
                content_id = hmac_sha256(study.new.cid, body.sha256)
                context = BodyContext(self._keyring.archive_id, job.new, content_id, Kind.OBJECT)
                sealed = reseal(
                    body, _meta(body, stored), study.new.blob, context, os.urandom, self._archive.room,
                    in_memory=position.body_len <= _IN_MEMORY_BYTES,
                )  # fmt: skip
        except IntegrityError as error:
            study.job = rekey.update(self._keyring, job, replace(job, stuck=position.seq))
            raise IntegrityError(
                f"record {position.seq} of the study cannot be opened, so the study keeps its key: {error}",
                hint="run coffer verify --level decrypt, repair it from a copy (coffer repair --from COPY), "
                "then rekey again",
            ) from error
        return Entry(Kind.OBJECT, job.new, stored.flags, content_id, sealed)

    def _note(self, study: _Study) -> None:
        """Record the progress periodically, for a caller that waits in another process."""
        if study.job.phase is Phase.SEALING and time.monotonic() - self._noted >= _NOTE_SECONDS:
            self._noted = time.monotonic()
            total = len(study.records.objects[study.job.old])
            study.job = rekey.update(self._keyring, study.job, replace(study.job, done=len(study.moved), total=total))

    def _change_over(self, study: _Study) -> None:
        """Let the index lead to the new records; durable on return."""
        index, job = self._archive.index, study.job
        moved = {record: _version(stored, job.new) for record, stored in study.moved.items()}
        held = index.rekey(job.name, job.old, job.new, moved)
        study.records.read()
        for stored in study.records.objects[job.new]:
            if stored.position.id not in held:  # missing from the index, or repaired since
                header = self._archive.reader.read_header(stored.position)
                rebuild.apply_object(index, stored.position, header, self._archive.open_record, self._archive.limits)
        index.flush()

    def _retire(self, job: Rekey) -> None:
        """Destroy the old key; durable on return."""
        now = clock_ms()
        until = trust(self._keyring).latest_ms + round(self._archive.config.keys.shred_hold_days * _DAY_MS)
        try:
            shred.supersede(self._keyring, job, now_ms=now, until_ms=until)
        except ShreddedError:
            _log.info("a study was shredded during its rekey", name="rekey.shredded", key=job.old.hex()[:8])
        except CofferError as error:
            _log.error(
                "an old key is not destroyed yet",
                name="rekey.retire_failed",
                key=job.old.hex()[:8],
                cause=str(error),
                remedy=error.hint(),
            )
            raise
        self._switched.pop(job.old, None)
        self._archive.index.follow()

    def _ended(self, study: _Study) -> Occurrence:
        seqs = [stored.position.seq for stored in study.moved.values()]
        event = StudyRekeyed(
            new_key=study.job.new.hex(),
            objects=len(seqs),
            first_record=min(seqs, default=None),
            last_record=max(seqs, default=None),
        )
        return Occurrence(event, clock_ms(), study.job.old)


def _meta(body: BodyReader, stored: _Stored) -> bytes:
    """The metadata sealed with an object again: as before, and with which record and content id it first arrived."""
    meta = ObjectMeta.decode(body.meta)
    if meta.order is not None:
        return body.meta
    order = Order(stored.time_ms, *stored.position.id)
    return msgspec.structs.replace(meta, order=order, original=stored.content_id).encode()


def _advance(progress: Callable[[int, int], None], before: int, total: int, count: int) -> None:
    progress(before + count, max(total, before + count))


def _version(stored: _Stored, key_id: bytes) -> Version:
    """Where an object is now, in the form that `Index.rekey` takes."""
    return Version(*stored.position, stored.time_ms, stored.content_id, "", 0, 0, 0, key_id)
