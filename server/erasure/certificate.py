"""Certificates of erasure: which study's keys are meant, whether they are gone, and the note that says so.

Rule: a certificate says no more than the log and the keyring prove. It names a study by a keyed hash, and by its UID
only if the officer gives it. Issuing one is an event, durable before anybody gets the certificate. An erasure that is
not effective yet is never called so, and there is no certificate for a living study.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from coffer.archive.events.event import Event
from coffer.archive.events.officer import Officer
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.shreds import CertificateIssued, StudyShredded
from coffer.archive.format.entry import OWN_LOG
from coffer.archive.tree.certificate import (
    EFFECTIVE,
    SCHEDULED,
    Certificate,
    CertifiedKey,
    Epoch,
    RecordProof,
    Step,
    runs,
)
from coffer.archive.tree.checkpoint import latest_note, open_checkpoint
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.tree.proof_bundle import Inclusion
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.crypto.derive import hmac_sha256
from coffer.keys.errors import InputError, IntegrityError, NotFoundError, UnavailableError
from coffer.keys.keyring import shred, signing_key
from coffer.keys.keyring.tombstone import Reason, Tombstone
from coffer.keys.mailbox import events
from coffer.server.access.action import Action
from coffer.server.access.principal import Principal
from coffer.server.copies.register import latest_end
from coffer.server.engine import erasure_state
from coffer.server.engine.archive import KeyAdminArchive
from coffer.server.erasure.approvals import waiting_requests
from coffer.server.erasure.history import ErasureHistory, RecordedEvent, StepWord
from coffer.server.erasure.proved_openers import ProvedOpeners
from coffer.server.erasure.shred import wait_until_settled
from coffer.server.keyops.backup_copies import follow_backups

__all__ = ["Certifier", "IssuedCertificate"]

_NAME_LABEL: Final = b"coffer/erasure/v1\0"
_KEY_DIGITS: Final = 32
_SIGN_SECONDS: Final = 15.0
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate and its signed note."""

    certificate: Certificate
    note: bytes


class Certifier:
    """Issues certificates of one archive, also beside a running server. Needs a keyring that can be changed."""

    def __init__(
        self,
        archive: KeyAdminArchive,
        by: Principal,
        *,
        with_reason: bool = False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """The certificate and its event name `by`; `with_reason` adds the reason of the shred, as it was typed.
        The log is read at once: `progress` gets the number of records read and of all.

        Raises UnavailableError while the writer has not recorded the last shreds, IntegrityError.
        """
        archive.policy.require(by, Action.CERTIFY)
        archive.keyring.require_whole()
        follow_backups(archive)
        if not wait_until_settled(archive):
            raise UnavailableError("the writer has not recorded the last shreds", hint="run the command again")
        self._archive = archive
        self._keyring = archive.keyring
        self._by = by
        self._with_reason = with_reason
        self._tombstones = shred.tombstones(self._keyring)
        self._history = ErasureHistory.read(archive, self._tombstones, progress)
        self._openers = ProvedOpeners(self._keyring, self._history)
        self._states = {each.key_id: each.state for each in erasure_state.erasures(self._keyring)}
        self._names = Counter(
            self._tombstones[key_id].name for key_id, state in self._states.items() if state != erasure_state.EFFECTIVE
        )

    def issue(self, names: Sequence[str], study_uid: str = "", most: int | None = None) -> list[IssuedCertificate]:
        """Issue one certificate for each study meant by these key ids and requests; recorded and durable on return.

        With `study_uid`, the only study must have this UID, and the certificate states it. Raises NotFoundError for a
        key that was never shredded; InputError for a study that lives or waits for approval, for one whose other
        shredded keys can still be opened while these cannot, for another study's UID, and for more than `most` studies.
        After an error none was issued.
        """
        studies = {keys: None for name in names for keys in self._keys_of(name)}
        if most is not None and len(studies) > most:
            raise InputError(f"these are {len(studies)} studies, each with its own certificate", hint="use -o FOLDER")
        before = read_key_history(self._archive.folder)
        made = [self._certificate(keys, study_uid.strip()) for keys in studies]
        signer, folder = signing_key.current(self._keyring), self._archive.folder
        issued = [IssuedCertificate(each, signer.sign_note(folder.origin, each.serialize())) for each in made]
        try:
            for each in issued:
                Certificate.open(each.note, folder.vkey)  # none is issued that a reader would refuse
        except IntegrityError as error:
            if signer.vkey(folder.origin) == read_key_history(folder).current == before.current:
                raise
            raise UnavailableError("the signing key was changed meanwhile", hint="run the command again") from error
        events.leave(self._keyring, [self._archive.enclosed(self._event(each)) for each in issued])
        wait_until_settled(self._archive)
        return issued

    # Which study is meant

    def _keys_of(self, name: str) -> list[tuple[bytes, ...]]:
        """Return the keys of each study meant: the shredded ones, then those that they replaced, newest first."""
        text = name.strip().lower()
        try:
            given = bytes.fromhex(text)
        except ValueError:
            given = b""
        if len(text) == _KEY_DIGITS and given:
            return [self._lineage(given)]
        shredded = [
            key_id for key_id, recorded in self._history.shreds.items() if text and recorded.event.request == text
        ]
        if not shredded:
            self._refuse_request(name)
        return sorted({self._lineage(key_id) for key_id in shredded})

    def _refuse_request(self, name: str) -> None:
        if any(request_id == name for request_id, _ in waiting_requests(self._archive)):
            raise InputError(
                f"request {name} waits for another officer: nothing was shredded", hint=f"coffer shred approve {name}"
            )
        raise NotFoundError(
            f"{name} is neither the id of a shredded key nor a request that was carried out",
            hint="coffer shred list shows the keys",
        )

    def _lineage(self, key_id: bytes) -> tuple[bytes, ...]:
        last = shred.current(self._keyring, key_id)
        tombstone = self._tombstones.get(last)
        if tombstone is None:
            if key_id != last:
                raise InputError(
                    f"key {key_id.hex()[:8]} was replaced by a rekey, and its successor {last.hex()[:8]} lives:"
                    " the study is not erased",
                    hint="coffer shred erases it",
                )
            if self._keyring.is_used(last):
                raise InputError(f"key {last.hex()[:8]} lives: its study is not erased", hint="coffer shred erases it")
            raise NotFoundError("the archive never had such a study key", hint="coffer shred list shows the keys")
        if self._archive.index.is_stored(tombstone.name):
            raise InputError(
                "objects of the same study are stored under another key: another patient's, or stored again since",
                hint="shred them too; a certificate that says the study is gone would mislead",
            )
        heads = sorted(key for key, other in self._tombstones.items() if _is_same_shred(tombstone, other))
        found = list(heads)
        for each in found:  # grows: adds what each key replaced
            found += sorted(key for key, other in self._tombstones.items() if other.successor == each)
        return tuple(found)

    # What a certificate says

    def _certificate(self, keys: tuple[bytes, ...], study_uid: str) -> Certificate:
        first = self._tombstones[keys[0]]
        if study_uid and first.is_forgotten:
            raise InputError(
                "the erasure is effective, and the archive has forgotten which study it was: no UID can be compared",
                hint="leave the UID out; a certificate that was issued before the erasure was effective states it",
            )
        if study_uid and self._archive.index.study_token(study_uid) != first.name:
            raise InputError("this UID is another study's", hint="leave it out, or look up the key of that study")
        authorized = _required(self._history.shreds.get(keys[0]), keys[0])
        steps = self._steps(authorized)
        epochs = self._epochs(max(self._tombstones[key].epoch for key in keys))
        gone = [_required(self._history.end_of(key), key) for key in keys]
        records: list[RecordedEvent[Event]] = [recorded for _, recorded in steps] + gone
        records += [
            self._openers.record(each.record) for of in epochs for each in of.openers if each.record is not None
        ]
        note, size = self._checkpoint(max(recorded.seq for recorded in records))
        is_effective = all(self._states[key] == erasure_state.EFFECTIVE for key in keys)
        if is_effective and (more := self._names[first.name]):
            raise InputError(
                f"more keys of the same study ({more}), another patient's or of what was stored again,"
                " are shredded but can still be opened: the study is not erased",
                hint="coffer shred list shows what still opens them; coffer shred finish destroys that",
            )
        held = [each for each in self._history.copies.values() if any(each.has_key(self._tombstones[k]) for k in keys)]
        copies_until = latest_end(held) if all(each.is_over(clock_ms()) for each in held) else None
        if is_effective and copies_until is None:
            raise IntegrityError(
                "the log names a copy that can open the study and is not in the keyring's register",
                hint="put the newest keyring back, then coffer keys audit",
            )
        until = max(self._tombstones[key].until_ms for key in keys)
        ends = [each.effective_ms or 0 for each in epochs]
        name = hmac_sha256(self._keyring.archive_key(derive.PSEUDONYM), _NAME_LABEL + first.name)[:16]
        return Certificate(
            type=EFFECTIVE if is_effective else SCHEDULED,
            archive=self._archive.folder.origin,
            log=OWN_LOG,
            issued_ms=clock_ms(),
            officer=self._by.name,
            account=self._by.account,
            study=name.hex(),
            study_uid=study_uid,
            reason=authorized.event.reason if self._with_reason else "",
            request=authorized.event.request or "",
            steps=tuple(step for step, _ in steps),
            scheduled_ms=first.scheduled_ms,
            backups_until_ms=until,
            copies_until_ms=copies_until,
            effective_ms=max(first.scheduled_ms, until, copies_until or 0, *ends) if is_effective else None,
            keys=tuple(self._key(key, recorded, size) for key, recorded in zip(keys, gone, strict=True)),
            epochs=tuple(epochs),
            proofs=self._proofs(records, note),
            checkpoint=note.decode(),
            endorsements=tuple(each.decode() for each in read_key_history(self._archive.folder).notes),
        )

    def _steps(self, shred: RecordedEvent[StudyShredded]) -> list[tuple[Step, RecordedEvent[Event]]]:
        """Return who requested and approved a shred: it names all who agreed, and the last of them carried it out."""
        before = self._history.steps.get(shred.event.request or "", [])
        steps: list[tuple[Step, RecordedEvent[Event]]] = [
            (_step(what, recorded, recorded.event.by), recorded) for what, recorded in before
        ]
        steps.append((_step("approved" if steps else "asked", shred, shred.event.officers[-1]), shred))
        return steps

    def _key(self, key_id: bytes, recorded: RecordedEvent[Event], size: int) -> CertifiedKey:
        tombstone = self._tombstones[key_id]
        return CertifiedKey(
            key=key_id.hex(),
            why=tombstone.reason.name.lower(),
            successor=tombstone.successor.hex() if tombstone.reason is Reason.REKEYED else "",
            gone_ms=tombstone.scheduled_ms,
            backups_until_ms=tombstone.until_ms,
            last_epoch=tombstone.epoch,
            record=recorded.seq,
            objects=runs(seq for seq in self._history.objects.get(key_id, []) if seq < size),
        )

    def _epochs(self, last: int) -> list[Epoch]:
        """Return epochs 1 to `last`, as keyring and log agree on them."""
        return [Epoch(number, self._openers.of(number)) for number in range(1, last + 1)]

    def _checkpoint(self, last: int) -> tuple[bytes, int]:
        """Return the last signed note, once it covers record `last`, and how many records it covers."""
        folder = self._archive.folder
        deadline = time.monotonic() + _SIGN_SECONDS
        while True:
            note = latest_note(folder)
            size = open_checkpoint(note, folder).size if note else 0
            if size > last:
                return note, size
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"record {last} is not under a signed checkpoint yet", hint="a server signs every minute"
                )
            self._archive.require_writer(f"record {last} is not under a signed checkpoint yet")
            time.sleep(0.1)

    def _proofs(self, records: Sequence[RecordedEvent[Event]], note: bytes) -> tuple[RecordProof, ...]:
        headers: Mapping[int, bytes] = {recorded.seq: recorded.header for recorded in records}
        made = [Inclusion.make(self._archive.folder, header, note) for _, header in sorted(headers.items())]
        return tuple(RecordProof(each.record.hex(), tuple(step.hex() for step in each.path)) for each in made)

    def _event(self, issued: IssuedCertificate) -> Occurrence:
        certificate = issued.certificate
        event = CertificateIssued(
            certificate=hashlib.sha256(issued.note).hexdigest(),
            is_effective=certificate.type == EFFECTIVE,
            keys=tuple(each.key for each in certificate.keys),
            tells_uid=bool(certificate.study_uid),
            tells_reason=self._with_reason,
            by=self._by.officer,
        )
        return Occurrence(event, certificate.issued_ms, bytes.fromhex(certificate.keys[0].key))


def _is_same_shred(tombstone: Tombstone, other: Tombstone) -> bool:
    """Whether both keys of one study were shredded in one transaction."""
    return (other.reason, other.name, other.scheduled_ms) == (Reason.SHREDDED, tombstone.name, tombstone.scheduled_ms)


def _required(recorded: RecordedEvent[E] | None, key_id: bytes) -> RecordedEvent[E]:
    if recorded is None:
        raise IntegrityError(
            f"the log has no record of the end of key {key_id.hex()[:8]}, which the keyring reports",
            hint="coffer recover show says whether the log lost records",
        )
    return recorded


def _step(what: StepWord, recorded: RecordedEvent[Event], who: Officer) -> Step:
    return Step(what, recorded.time_ms, who.name, who.account, recorded.seq)
