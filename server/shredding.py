"""Erase studies by destroying their keys: which ones, whether it is allowed, and the one transaction that does it.

Rule: what is not allowed is refused before anything changes; what is allowed happens in one transaction of the keyring,
after which no process gives the key to anybody. The rest (log, index, the key's row) is the writer's, here or in the
process that runs: `Vault.settle`. Order and what a stop in between leaves: docs/keys.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from archive.event import Event
from archive.record import Kind
from index.attributes import PATIENT_ID, STUDY_UID
from keys import rows, shred
from keys.clock import clock_ms
from keys.errors import InputError, NotFoundError
from keys.tombstone import Tombstone
from server import otherwriter
from server.engine import Engine
from server.erasure import uncompacted
from server.holds import Holds, Subject, require_retention_over
from server.officers import Officer

__all__ = [
    "Deed",
    "Doomed",
    "Shredding",
    "as_now",
    "by_patient",
    "by_study",
    "require_reason",
    "wait_until_compacted",
    "wait_until_settled",
]

_ISSUER: Final = 0x00100021
_STUDY_DATE: Final = 0x00080020
_DAY_MS: Final = 86_400_000
_LONGEST_REASON: Final = 1000
_SETTLE_SECONDS: Final = 15.0
_COMPACT_SECONDS: Final = 300.0


class Doomed(msgspec.Struct, frozen=True):
    """A study that is to be shredded: who it is, the ids of its keys, and how many instances it has."""

    subject: Subject
    key_ids: tuple[bytes, ...]
    instances: int


def by_study(engine: Engine, study_uid: str) -> list[Doomed]:
    """The study with this UID. Raises NotFoundError, InputError."""
    if not study_uid.strip():
        raise InputError("a Study Instance UID is needed", hint="coffer find shows them")
    found = _doomed(engine, study_uid.strip(), "")
    if found is None:
        raise NotFoundError("the archive has no such study", hint="coffer find lists what it has")
    return [found]


def by_patient(engine: Engine, patient_id: str, issuer: str | None = None) -> list[Doomed]:
    """Every study whose Patient ID is exactly this. Raises NotFoundError; InputError where it is not one patient's."""
    if not patient_id.strip():
        raise InputError("a Patient ID is needed", hint="coffer find --level patient shows them")
    keys = {0x00080052: ("STUDY",), PATIENT_ID: (), _ISSUER: (), STUDY_UID: ()}
    found: list[Doomed] = []
    issuers: set[str] = set()
    for row in engine.index.query("STUDY", keys, "study"):
        values = {tag: str(row[tag][0]) if row.get(tag) else "" for tag in (PATIENT_ID, _ISSUER, STUDY_UID)}
        if values[PATIENT_ID] != patient_id.strip() or issuer not in (None, values[_ISSUER]):
            continue
        issuers.add(values[_ISSUER])
        one = _doomed(engine, values[STUDY_UID], values[PATIENT_ID])
        found += [one] if one is not None else []
    if not found:
        raise NotFoundError("the archive has no study of this patient", hint="coffer find --level patient lists them")
    if len(issuers) > 1:
        raise InputError(
            f"{len(issuers)} issuers have given this Patient ID: it is not one patient's",
            hint="say --issuer TEXT (empty: where the study names none)",
        )
    return found


def _doomed(engine: Engine, study_uid: str, patient_id: str) -> Doomed | None:
    row = next(engine.index.query("STUDY", {STUDY_UID: (study_uid,), PATIENT_ID: (), _STUDY_DATE: ()}, "study"), None)
    key_ids = engine.index.key_ids_of(study_uid)
    if row is None or not key_ids:
        return None
    received, count = 0, 0
    for each in engine.index.locate({STUDY_UID: (study_uid,)}):
        received, count = max(received, each.version.received_ms), count + 1
    first = {tag: str(row[tag][0]) if row.get(tag) else "" for tag in (PATIENT_ID, _STUDY_DATE)}
    subject = Subject(study_uid, patient_id or first[PATIENT_ID], first[_STUDY_DATE], received)
    return Doomed(subject, tuple(sorted(key_ids)), count)


def as_now(engine: Engine, doomed: Sequence[Doomed]) -> list[Doomed]:
    """The same studies with the keys they had then, and patient, date and receipt as they are now."""
    found = ((each, _doomed(engine, each.subject.study_uid, "")) for each in doomed)
    return [each if now is None else msgspec.structs.replace(each, subject=now.subject) for each, now in found]


def require_reason(what: str, reason: str) -> None:
    """Raise InputError for a reason that says nothing, or too much."""
    if not reason.strip() or len(reason) > _LONGEST_REASON:
        raise InputError(
            f"{what} needs a reason of at most {_LONGEST_REASON} characters",
            hint="say --reason TEXT; it is kept for good, so write no name into it",
        )


@dataclass(frozen=True, slots=True)
class Deed:
    """Why and by whom: the reason, the officers who agreed (the first one asked for it), the request's id, if any."""

    reason: str
    officers: tuple[Officer, ...]
    request: str = ""

    def check(self) -> None:
        """Raise InputError for a reason that says nothing, or too much."""
        require_reason("a shred", self.reason)


class Shredding:
    """Shreds studies of an archive whose keyring can be changed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._config = engine.config

    def require_allowed(self, doomed: Sequence[Doomed]) -> None:
        """Raise AccessDeniedError, saying who and why, where a hold or the retention keeps any of the studies."""
        subjects = [each.subject for each in doomed]
        Holds(self._engine).require_none(subjects)
        require_retention_over(subjects, self._config.retention.years)

    def shred(self, doomed: Sequence[Doomed], deed: Deed, done: Sequence[tuple[bytes, bytes]] = ()) -> list[bytes]:
        """Shred, durable on return; returns the key ids that were not shredded before. `done`: rows that go with it.

        From then on no process finds or opens the studies. Raises AccessDeniedError, InputError.
        """
        deed.check()
        index = self._engine.index
        names = {key_id: index.name_of(each.subject.study_uid) for each in doomed for key_id in each.key_ids}
        counts = {index.name_of(each.subject.study_uid): each.instances for each in doomed}
        now = clock_ms()
        until = now + round(self._config.keys.shred_hold_days * _DAY_MS)

        def event(key_id: bytes, stone: Tombstone) -> tuple[bytes, bytes]:
            return self._engine.enclosed(_event(key_id, stone, deed, counts[stone.name]))

        fresh = shred.schedule(
            self._engine.keyring,
            names,
            now_ms=now,
            until_ms=until,
            event=event,
            done=done,
            allowed=lambda: self.require_allowed(doomed),
        )
        self._engine.index.follow()
        return fresh


def _event(key_id: bytes, stone: Tombstone, deed: Deed, instances: int) -> Event:
    facts = {
        "what": "study shredded",
        "study": stone.name.hex(),
        "epoch": stone.epoch,
        "scheduled_ms": stone.scheduled_ms,
        "until_ms": stone.until_ms,
        "instances": instances,
        "reason": deed.reason.strip(),
        "request": deed.request,
        "officers": [{"officer": each.name, "account": each.account} for each in deed.officers],
    }
    return Event(Kind.SHRED_SCHEDULED, stone.scheduled_ms, facts, key_id)


def wait_until_settled(
    engine: Engine, seconds: float = _SETTLE_SECONDS, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> bool:
    """Do what is left to do, or wait for the writer that runs to do it; whether it is done. Raises CofferError.

    `progress` gets shredded keys that have left the keyring, of those that were there.
    """
    keyring = engine.keyring
    total = len(shred.waiting(keyring))

    def is_done() -> bool:
        left = len(shred.waiting(keyring))
        progress(max(0, total - left), total)
        return not left and not keyring.rows(rows.EVENT_PREFIX)

    return _wait(engine, is_done, seconds)


def wait_until_compacted(engine: Engine, seconds: float = _COMPACT_SECONDS) -> bool:
    """As `wait_until_settled`, for the index that is written anew when an epoch ended."""
    return _wait(engine, lambda: not uncompacted(engine.keyring), seconds)


def _wait(engine: Engine, is_done: Callable[[], bool], seconds: float) -> bool:
    if engine.writes:
        engine.settle()
        return is_done()
    return otherwriter.wait_until(engine.folder, is_done, seconds)
