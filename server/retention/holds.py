"""What keeps a study from being shredded: holds that officers have put on it, its patients or one of its objects.

Rule: a hold follows every patient whose objects the study has or had. One that matches any part of a study keeps all of
it, so that nothing stored later lifts a hold. It applies from the moment it is written until its last day is over
everywhere on earth. Refusals name who and why. The records of the log name studies and patients by keyed hashes only:
they outlive the studies.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import msgspec

from coffer.archive.events.holds import HoldAdded, HoldRemoved
from coffer.archive.events.officer import Officer
from coffer.archive.events.recorded import Occurrence
from coffer.index.index import Index
from coffer.index.query.parts import Part
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.crypto.derive import hmac_sha256
from coffer.keys.errors import AccessDeniedError, InputError, NotFoundError
from coffer.keys.mailbox.officer_records import OfficerRecordAdmin, OfficerRecords
from coffer.keys.values.officer_record import RecordKind
from coffer.server.access.action import Action
from coffer.server.access.principal import Principal
from coffer.server.clock.trust import granting_ms, trust
from coffer.server.engine.archive import KeyAdminArchive, ReadableArchive
from coffer.server.retention import typed_ids

__all__ = ["LAST_ZONE", "Hold", "HoldAdmin", "Holds", "MatchingHold", "count_kept", "matching_holds", "today"]

_TOKEN_BYTES: Final = 16
LAST_ZONE: Final = dt.timezone(dt.timedelta(hours=-12))  # where every day ends last


class Hold(msgspec.Struct, frozen=True):
    """One hold: on a study, on a patient's studies, or on an object that belongs to no study; until the end of a day
    (ISO; empty: until removed). A patient without an issuer matches every issuer."""

    study_uid: str
    patient_id: str
    reason: str
    until: str
    by: Officer
    added_ms: int
    issuer: str = ""
    sop_instance: str = ""

    def counts(self, day: dt.date) -> bool:
        """Whether it still applies on this day."""
        return not self.until or day <= dt.date.fromisoformat(self.until)

    def matches(self, part: Part) -> bool:
        """Whether it is on this part: its study, its object or its patient.

        An absent issuer matches every issuer, also if the site's rules now name one: no setting lifts a hold.
        """
        if self.study_uid:
            return self.study_uid == part.study_uid
        if self.sop_instance:
            return not part.study_uid and self.sop_instance == part.sop_instance
        is_issuer = not self.issuer or part.some_without_issuer or typed_ids.is_named(self.issuer, part.issuer)
        return is_issuer and typed_ids.is_named(self.patient_id, part.patient_id)

    @property
    def kind(self) -> Literal["study", "patient", "instance"]:
        """What it is on: "study", "patient" or "instance"."""
        return "study" if self.study_uid else "instance" if self.sop_instance else "patient"


class MatchingHold(NamedTuple):
    """A hold, its id, and the first part that it matches."""

    hold_id: str
    hold: Hold
    part: Part


def matching_holds(holds: Iterable[tuple[str, Hold]], parts: Iterable[Part], day: dt.date) -> list[MatchingHold]:
    """Return the holds that keep a study on a day: those that match any of its parts.

    Pure. `parts` must be everything that the study has or had, of every patient, served or not.
    """
    parts = list(parts)
    active = [(hold_id, hold) for hold_id, hold in holds if hold.counts(day)]
    matching = ((hold_id, hold, next(filter(hold.matches, parts), None)) for hold_id, hold in active)
    return [MatchingHold(hold_id, hold, part) for hold_id, hold, part in matching if part is not None]


def today(now_ms: int) -> dt.date:
    """Return the day at a time (ms since 1970 UTC) in the last time zone on earth: no earlier day is still going on."""
    return dt.datetime.fromtimestamp(now_ms / 1000, LAST_ZONE).date()


def count_kept(index: Index, hold: Hold) -> int:
    """Return how many studies, or objects of no study, that are stored now this hold keeps."""
    if hold.study_uid:
        parts = index.parts(hold.study_uid)
    elif hold.sop_instance:
        parts = index.parts_of_instance(hold.sop_instance)
    else:
        parts = index.parts_of_patient(hold.patient_id)
    return len({part.study_uid or part.sop_instance for part in parts if hold.matches(part)})


class Holds:
    """The holds of an archive."""

    def __init__(self, archive: ReadableArchive) -> None:
        self._archive = archive
        self._records = OfficerRecords(archive.keyring, RecordKind.HOLD, Hold)

    def all(self) -> list[tuple[str, Hold]]:
        """Return every hold with its id, oldest first, including those that are over. Raises IntegrityError for a
        keyring that is not as it was written: a hold may have been taken from it."""
        self._archive.keyring.require_whole()
        return sorted(self._records.all(), key=lambda pair: pair[1].added_ms)

    def as_stored(self, hold: Hold) -> Hold:
        """Return the hold with its UID, Patient ID and issuer as the index has them. Raises InputError like
        `server.retention.typed_ids`."""
        index = self._archive.index

        def is_patient(text: str) -> bool:
            return bool(index.parts_of_patient(text))

        patient_id = typed_ids.patient_id(hold.patient_id, is_patient)
        issuers = {part.issuer for part in index.parts_of_patient(patient_id)} if hold.issuer else set()
        return msgspec.structs.replace(
            hold,
            study_uid=typed_ids.uid(hold.study_uid, lambda text: bool(index.parts(text))),
            sop_instance=typed_ids.uid(hold.sop_instance, lambda text: bool(index.parts_of_instance(text))),
            patient_id=patient_id,
            issuer=typed_ids.patient_id(hold.issuer, lambda text: typed_ids.identity(text) in issuers),
        )

    def matching_holds(self, studies: Iterable[Iterable[Part]]) -> list[MatchingHold]:
        """Return the holds that keep any of these studies, given all parts of each; a clock in doubt ends none. Raises
        as `all`."""
        holds, day = self.all(), today(granting_ms(self._archive.keyring))
        return [found for parts in studies for found in matching_holds(holds, parts, day)]

    def require_none(self, studies: Iterable[Iterable[Part]]) -> None:
        """Raise AccessDeniedError, with who and why, if a hold keeps any of the studies with these parts."""
        clock = trust(self._archive.keyring)
        for hold_id, hold, _ in self.matching_holds(studies):
            until = f"until {hold.until}" if hold.until else "until it is removed"
            whose = ", which has or had objects of a patient on hold," if hold.patient_id else ""
            what = f"hold {hold_id} by {hold.by} keeps this study{whose} {until}: {hold.reason}"
            if not hold.counts(today(clock.wall_ms)):
                raise clock.refusal(f"{what}; only a clock in doubt says that it is over")
            raise AccessDeniedError(
                what,
                hint=f"ask {hold.by.name}; coffer hold remove {hold_id} removes it",
            )


class HoldAdmin(Holds):
    """The holds of an archive whose keyring may be changed: added and removed."""

    def __init__(self, archive: KeyAdminArchive) -> None:
        super().__init__(archive)
        self._admin = OfficerRecordAdmin(archive.keyring, RecordKind.HOLD, Hold)
        self._enclosed = archive.enclosed

    def add(self, hold: Hold) -> str:
        """Add a hold, durable on return; returns its id.

        Raises InputError for an empty hold, and for one on an object of a study: that is kept or erased with its study.
        """
        self._archive.policy.require(Principal.person(hold.by.name, hold.by.account), Action.HOLD)
        hold = self.as_stored(hold)
        if sum(map(bool, (hold.study_uid, hold.patient_id, hold.sop_instance))) != 1:
            raise InputError("a hold is on a study, a patient or an object of no study", hint="give one of the three")
        theirs = self._archive.index.parts_of_instance(hold.sop_instance) if hold.sop_instance else []
        if theirs and all(part.study_uid for part in theirs):
            raise InputError(
                "this object belongs to a study and shares its key: it cannot be held by itself",
                hint="coffer versions UID says which study; hold that",
            )
        if hold.issuer and not hold.patient_id:
            raise InputError("an issuer goes with a patient", hint="use --patient ID --issuer TEXT")
        if not hold.reason.strip():
            raise InputError("a hold needs a reason", hint="use --reason TEXT; it is shown to the person refused")
        return self._admin.add(hold, lambda new: self._enclosed(self._event(HoldAdded, new, hold, hold.by)))

    def remove(self, hold_id: str, by: Principal) -> Hold:
        """Remove a hold, durable on return. Raises NotFoundError, AccessDeniedError."""
        self._archive.policy.require(by, Action.RELEASE)
        hold, before = self._admin.get(hold_id)
        if not self._admin.remove(before, self._enclosed(self._event(HoldRemoved, hold_id, hold, by.officer))):
            raise NotFoundError(f"there is no hold {hold_id} (any more)", hint="coffer hold list shows the holds")
        return hold

    def _event(
        self, what: type[HoldAdded] | type[HoldRemoved], hold_id: str, hold: Hold, officer: Officer
    ) -> Occurrence:
        event = what(
            hold=hold_id,
            on=hold.kind,
            token=self._token(hold).hex(),
            until=hold.until or None,
            reason=hold.reason,
            by=officer,
        )
        return Occurrence(event, clock_ms())

    def _token(self, hold: Hold) -> bytes:
        if hold.study_uid:
            return self._archive.index.study_token(hold.study_uid)
        key = self._archive.keyring.archive_key(derive.HOLD)
        issuer = f"\0{hold.issuer}" if hold.issuer else ""
        what = f"{hold.kind}\0{hold.patient_id or hold.sop_instance}{issuer}"
        return hmac_sha256(key, what.encode())[:_TOKEN_BYTES]
