"""What keeps a study from being shredded: a hold that an officer has put on it or its patient, and the retention.

Rule: a hold counts from the moment it is written, and until the end of its last day. Refusals name who and why.
The records of the log name studies and patients by keyed hashes only: they outlive the studies.
"""

import datetime as dt
from collections.abc import Iterable

import msgspec

from archive.event import Event
from archive.record import Kind
from keys import derive, rows
from keys.clock import clock_ms
from keys.derive import hmac_sha256
from keys.errors import AccessDeniedError, InputError, NotFoundError
from server.officers import Officer
from server.sealednotes import SealedNotes
from server.vault import Vault

__all__ = ["Hold", "Holds", "Subject", "require_retention_over"]

_TOKEN_BYTES = 16


class Subject(msgspec.Struct, frozen=True):
    """A study that could be shredded: its UID, its patient's id, its date as the study says it, and when its newest
    object came (ms since 1970 UTC)."""

    study_uid: str
    patient_id: str
    study_date: str
    received_ms: int


class Hold(msgspec.Struct, frozen=True):
    """One hold: on a study or on all studies of a patient, until the end of a day (ISO; empty: until removed)."""

    study_uid: str
    patient_id: str
    reason: str
    until: str
    by: Officer
    added_ms: int

    def applies(self, subject: Subject, today: dt.date) -> bool:
        """Whether it keeps this study today."""
        if self.until and today > dt.date.fromisoformat(self.until):
            return False
        if self.study_uid:
            return self.study_uid == subject.study_uid
        return self.patient_id == subject.patient_id


class Holds:
    """The archive's holds. Needs a keyring that can be changed for `add` and `remove`."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._notes = SealedNotes(vault, rows.HOLD_PREFIX)

    def all(self) -> list[tuple[str, Hold]]:
        """Every hold and its id, oldest first, those that are over included."""
        return sorted(self._notes.all(Hold), key=lambda pair: pair[1].added_ms)

    def add(self, hold: Hold) -> str:
        """Put a hold, durable on return; returns its id. Raises InputError for one that says nothing."""
        if bool(hold.study_uid) == bool(hold.patient_id):
            raise InputError("a hold is on a study or on a patient", hint="give one of the two")
        if not hold.reason.strip():
            raise InputError("a hold needs a reason", hint="say --reason TEXT; it is shown to whoever is refused")
        return self._notes.add(hold, lambda new: self._event("hold added", new, hold, hold.by))

    def remove(self, hold_id: str, officer: Officer) -> Hold:
        """Take a hold away, durable on return. Raises NotFoundError."""
        hold, before = self._notes.get(hold_id, Hold)
        if not self._notes.remove(hold_id, self._event("hold removed", hold_id, hold, officer), before):
            raise NotFoundError(f"there is no {hold_id} (any more)", hint="coffer hold list shows what there is")
        return hold

    def require_none(self, subjects: Iterable[Subject]) -> None:
        """Raise AccessDeniedError, saying who holds and why, where any of the studies is held."""
        today = dt.datetime.now(dt.UTC).date()
        found = self.all()
        for subject in subjects:
            for hold_id, hold in found:
                if hold.applies(subject, today):
                    until = f"until {hold.until}" if hold.until else "until it is removed"
                    raise AccessDeniedError(
                        f"hold {hold_id} by {hold.by} keeps this study {until}: {hold.reason}",
                        hint=f"ask {hold.by.name}; coffer hold remove {hold_id} ends it",
                    )

    def _event(self, what: str, hold_id: str, hold: Hold, officer: Officer) -> Event:
        facts = {
            "what": what,
            "hold": hold_id,
            "on": "study" if hold.study_uid else "patient",
            "token": self._token(hold).hex(),
            "until": hold.until,
            "reason": hold.reason,
            "officer": officer.name,
            "account": officer.account,
        }
        return Event(Kind.STATE, clock_ms(), facts)

    def _token(self, hold: Hold) -> bytes:
        if hold.study_uid:
            return self._vault.index.name_of(hold.study_uid)
        key = self._vault.keyring.archive_key(derive.NOTE)
        return hmac_sha256(key, b"patient\0" + hold.patient_id.encode())[:_TOKEN_BYTES]


def require_retention_over(subjects: Iterable[Subject], years: float) -> None:
    """Raise AccessDeniedError, naming the day, where a study is younger than the configured retention."""
    today = dt.datetime.now(dt.UTC).date()
    for subject in subjects:
        begin = _day(subject)
        until = begin + min(dt.timedelta(days=round(years * 365.2425)), dt.date.max - begin)
        if years and today <= until:
            raise AccessDeniedError(
                f"the retention of {years:g} years ([retention] years in coffer.toml) keeps this study until {until}",
                hint="wait, or have the retention changed by whoever answers for it",
            )


def _day(subject: Subject) -> dt.date:
    try:
        return dt.datetime.strptime(subject.study_date.replace(".", ""), "%Y%m%d").replace(tzinfo=dt.UTC).date()
    except ValueError:
        return dt.datetime.fromtimestamp(subject.received_ms / 1000, dt.UTC).date()
