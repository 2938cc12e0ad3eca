"""Certificates of erasure: which study's keys are meant, whether they are gone, and the note that says so.

Rule: a certificate says no more than the log and the keyring prove, and names a study by a keyed hash: by its UID only
where the officer gives it. That one was made is an event, durable before anybody gets it. What is not effective yet is
never called so, and for a study that lives there is none.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from coffer.archive.event import Event
from coffer.archive.format.record import Kind
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
from coffer.server.access.action import Action
from coffer.server.access.principal import Principal
from coffer.server.engine import erasure_state
from coffer.server.engine.archive import KeyAdminArchive
from coffer.server.erasure.approvals import waiting_requests
from coffer.server.erasure.history import Deeds, Noted
from coffer.server.erasure.proved_openers import ProvedOpeners
from coffer.server.erasure.shred import wait_until_settled

__all__ = ["Certifier", "Issued"]

_NAME_LABEL: Final = b"coffer/erasure/v1\0"
_KEY_DIGITS: Final = 32
_SIGN_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and the signed note of it."""

    certificate: Certificate
    note: bytes


class Certifier:
    """Makes certificates of one archive, beside a running server. Needs a keyring that can be changed."""

    def __init__(
        self,
        archive: KeyAdminArchive,
        by: Principal,
        *,
        with_reason: bool = False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """`by` is whom the certificate and its event name; `with_reason` writes into it why it was, as it was typed.
        The log is read at once: `progress` gets the number of records read and of all.

        Raises UnavailableError while the process that writes has not recorded the last shreds, IntegrityError.
        """
        archive.policy.require(by, Action.CERTIFY)
        if not wait_until_settled(archive):
            raise UnavailableError("the process that writes has not recorded the last shreds", hint="say it again")
        self._archive = archive
        self._keyring = archive.keyring
        self._by = by
        self._with_reason = with_reason
        self._stones = shred.tombstones(self._keyring)
        self._deeds = Deeds.read(archive, self._stones, progress)
        self._openers = ProvedOpeners(self._keyring, self._deeds)
        self._states = {each.key_id: each.state for each in erasure_state.erasures(self._keyring)}
        self._names = Counter(
            self._stones[key_id].name for key_id, state in self._states.items() if state != erasure_state.EFFECTIVE
        )

    def issue(self, names: Sequence[str], study_uid: str = "", most: int | None = None) -> list[Issued]:
        """One certificate for each study meant by these key ids and requests; recorded, durable, on return.

        With `study_uid`, the one study must have this UID, and the certificate tells it. Raises NotFoundError for what
        was never shredded, InputError for a study that lives or waits for approval, for one of which another key can be
        opened yet where these cannot, for another study's UID, and for more than `most` studies; then none is made.
        """
        studies = {keys: None for name in names for keys in self._meant(name)}
        if most is not None and len(studies) > most:
            raise InputError(f"these are {len(studies)} studies, each with its own certificate", hint="say -o FOLDER")
        before = read_key_history(self._archive.folder)
        made = [self._certificate(keys, study_uid.strip()) for keys in studies]
        signer, folder = signing_key.current(self._keyring), self._archive.folder
        issued = [Issued(each, signer.sign_note(folder.origin, each.serialize())) for each in made]
        try:
            for each in issued:
                Certificate.open(each.note, folder.vkey)  # nobody gets one that a reader would refuse
        except IntegrityError as error:
            if signer.vkey(folder.origin) == read_key_history(folder).current == before.current:
                raise
            raise UnavailableError("the signing key was changed meanwhile", hint="say it again") from error
        self._keyring.amend([self._archive.enclosed(self._event(each)) for each in issued])
        wait_until_settled(self._archive)
        return issued

    # Which study is meant

    def _meant(self, name: str) -> list[tuple[bytes, ...]]:
        """The keys of each study meant: the shredded ones, then those that they had replaced, newest first."""
        text = name.strip().lower()
        try:
            given = bytes.fromhex(text)
        except ValueError:
            given = b""
        if len(text) == _KEY_DIGITS and given:
            return [self._lineage(given)]
        shredded = [key_id for key_id, noted in self._deeds.gone.items() if text and noted.text("request") == text]
        if not shredded:
            self._refuse_request(name)
        return sorted({self._lineage(key_id) for key_id in shredded})

    def _refuse_request(self, name: str) -> None:
        if any(request_id == name for request_id, _ in waiting_requests(self._archive)):
            raise InputError(
                f"request {name} waits for another officer: nothing was shredded", hint="coffer shred approve"
            )
        raise NotFoundError(
            f"{name} is neither the id of a shredded key nor a request that was carried out",
            hint="coffer shred list shows the keys",
        )

    def _lineage(self, key_id: bytes) -> tuple[bytes, ...]:
        last = shred.current(self._keyring, key_id)
        stone = self._stones.get(last)
        if stone is None:
            if key_id != last:
                raise InputError(
                    f"key {key_id.hex()[:8]} was replaced by a rekey, and its successor {last.hex()[:8]} lives:"
                    " the study is not erased",
                    hint="coffer shred erases it",
                )
            if self._keyring.is_used(last):
                raise InputError(f"key {last.hex()[:8]} lives: its study is not erased", hint="coffer shred erases it")
            raise NotFoundError("the archive never had such a study key", hint="coffer shred list shows the keys")
        if self._archive.index.is_stored(stone.name):
            raise InputError(
                "objects of the same study are stored under another key, another patient's or stored again since",
                hint="shred them too; a certificate that says the study is gone would mislead",
            )
        heads = sorted(key for key, other in self._stones.items() if _is_same_deed(stone, other))
        found = list(heads)
        for each in found:  # grows: what each had replaced
            found += sorted(key for key, other in self._stones.items() if other.successor == each)
        return tuple(found)

    # What it says

    def _certificate(self, keys: tuple[bytes, ...], study_uid: str) -> Certificate:
        first = self._stones[keys[0]]
        if study_uid and self._archive.index.study_token(study_uid) != first.name:
            raise InputError("this UID is another study's", hint="leave it out, or look which key it had")
        deed = self._noted(keys[0])
        steps = [*self._deeds.steps.get(deed.text("request"), [])] if deed.text("request") else []
        steps.append(("approved" if steps else "asked", deed))
        epochs = self._epochs(max(self._stones[key].epoch for key in keys))
        gone = [self._noted(key) for key in keys]
        records = [noted for _, noted in steps] + gone
        records += [
            self._openers.record(each.record) for of in epochs for each in of.openers if each.record is not None
        ]
        note, size = self._checkpoint(max(noted.seq for noted in records))
        is_effective = all(self._states[key] == erasure_state.EFFECTIVE for key in keys)
        if is_effective and (more := self._names[first.name]):
            raise InputError(
                f"more keys of the same study ({more}), another patient's or of what was stored again,"
                " are shredded and can be opened yet: the study is not erased",
                hint="coffer shred list shows what still opens them, coffer shred finish ends it",
            )
        until = max(self._stones[key].until_ms for key in keys)
        ends = [each.effective_ms or 0 for each in epochs]
        name = hmac_sha256(self._keyring.archive_key(derive.PSEUDONYM), _NAME_LABEL + first.name)[:16]
        return Certificate(
            type=EFFECTIVE if is_effective else SCHEDULED,
            archive=self._archive.folder.origin,
            issued_ms=clock_ms(),
            officer=self._by.name,
            account=self._by.account,
            study=name.hex(),
            study_uid=study_uid,
            reason=deed.text("reason") if self._with_reason else "",
            request=deed.text("request"),
            steps=tuple(_step(what, noted) for what, noted in steps),
            scheduled_ms=first.scheduled_ms,
            backups_until_ms=until,
            effective_ms=max(first.scheduled_ms, until, *ends) if is_effective else None,
            keys=tuple(self._key(key, noted, size) for key, noted in zip(keys, gone, strict=True)),
            epochs=tuple(epochs),
            proofs=self._proofs(records, note),
            checkpoint=note.decode(),
            endorsements=tuple(each.decode() for each in read_key_history(self._archive.folder).notes),
        )

    def _noted(self, key_id: bytes) -> Noted:
        noted = self._deeds.gone.get(key_id)
        if noted is None:
            raise IntegrityError(
                f"the log has no record of the end of key {key_id.hex()[:8]}, which the keyring tells of",
                hint="coffer recover show tells whether the log lost records",
            )
        return noted

    def _key(self, key_id: bytes, noted: Noted, size: int) -> CertifiedKey:
        stone = self._stones[key_id]
        return CertifiedKey(
            key=key_id.hex(),
            why=stone.reason.name.lower(),
            successor=stone.successor.hex() if stone.reason is Reason.REKEYED else "",
            gone_ms=stone.scheduled_ms,
            backups_until_ms=stone.until_ms,
            last_epoch=stone.epoch,
            record=noted.seq,
            objects=runs(seq for seq in self._deeds.objects.get(key_id, []) if seq < size),
        )

    def _epochs(self, last: int) -> list[Epoch]:
        """Epochs 1 to `last`, as keyring and log agree on them."""
        return [Epoch(number, self._openers.of(number)) for number in range(1, last + 1)]

    def _checkpoint(self, last: int) -> tuple[bytes, int]:
        """The last signed note, once it covers record `last`, and how many records it covers."""
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

    def _proofs(self, records: Sequence[Noted], note: bytes) -> tuple[RecordProof, ...]:
        headers: Mapping[int, bytes] = {noted.seq: noted.header for noted in records}
        made = [Inclusion.make(self._archive.folder, header, note) for _, header in sorted(headers.items())]
        return tuple(RecordProof(each.record.hex(), tuple(step.hex() for step in each.path)) for each in made)

    def _event(self, issued: Issued) -> Event:
        certificate = issued.certificate
        facts = {
            "what": "erasure certificate issued",
            "certificate": hashlib.sha256(issued.note).hexdigest(),
            "type": certificate.type,
            "keys": [each.key for each in certificate.keys],
            "tells_uid": bool(certificate.study_uid),
            "tells_reason": self._with_reason,
            "officer": self._by.name,
            "account": self._by.account,
        }
        return Event(Kind.STATE, certificate.issued_ms, facts, bytes.fromhex(certificate.keys[0].key))


def _is_same_deed(stone: Tombstone, other: Tombstone) -> bool:
    """Whether both keys of one study went in one transaction."""
    return (other.reason, other.name, other.scheduled_ms) == (Reason.SHREDDED, stone.name, stone.scheduled_ms)


def _step(what: str, noted: Noted) -> Step:
    """Who took it: a shred names everybody who agreed, the one who did it last."""
    officers = noted.event.facts.get("officers")
    who = officers[-1] if isinstance(officers, list) and officers else noted.event.facts
    return Step(what, noted.event.time_ms, str(who["officer"]), str(who["account"]), noted.seq)
