"""The audit message of PS3.15 A.5 for each act, as values: event, active participants, source, participant objects.

Rule: pure. A message of a transfer, a deletion, an export or an import is about one patient (A.5.3): an act that
concerned several becomes several messages. The patient's name is in none: the archive's trail does not have it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from coffer.archive.events.accesses import Act, Actor, Subject
from coffer.server.access.action import Action
from coffer.server.audit import codes
from coffer.server.audit.codes import ALERTS, Coded, EventKind

__all__ = ["AuditMessage", "Source", "kind_of", "messages_of"]

_DENIED: Final = 8
_UNKNOWN: Final = "unknown"  # a patient without an ID, for one


@dataclass(frozen=True, slots=True)
class Source:
    """Which archive reports: its own AE title, and its name, the origin of its log."""

    ae_title: str
    name: str


@dataclass(frozen=True, slots=True)
class Participant:
    """ActiveParticipant: a person or process."""

    user_id: str
    is_requestor: bool
    roles: tuple[Coded, ...] = ()
    ae_title: str = ""
    name: str = ""
    host: str = ""
    media: Coded | None = None


@dataclass(frozen=True, slots=True)
class ParticipantObject:
    """ParticipantObjectIdentification: what the event concerned. `query` is base64, and takes the place of a name;
    `details` are pairs of type and value."""

    object_id: str
    id_type: Coded
    type_code: int
    role: int
    name: str = ""
    query: str = ""
    details: tuple[tuple[str, str], ...] = ()
    classes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One message. Times are milliseconds since 1970 UTC."""

    kind: EventKind
    types: tuple[Coded, ...]
    action_code: str
    at_ms: int
    outcome: int
    description: str
    participants: tuple[Participant, ...]
    objects: tuple[ParticipantObject, ...]
    source: Source


def kind_of(act: Act) -> EventKind:
    """Which message an act is: what was denied before anything was found is an alert, unless it is a login."""
    action = act.action
    if action == Action.ASSOCIATE:
        return EventKind.AUTHENTICATION
    if action == Action.SERVE and not act.outcome:
        return EventKind.APPLICATION
    if action == Action.READ_AUDIT and not act.outcome:
        return EventKind.LOG_USED
    if action == Action.FIND and act.query:
        return EventKind.QUERY
    return _kind_of_objects(act) if act.subjects else EventKind.ALERT


def _kind_of_objects(act: Act) -> EventKind:
    is_transfer = act.action == Action.MOVE or (act.action == Action.RETRIEVE and act.who.kind == "peer")
    if is_transfer:
        return EventKind.BEGIN_TRANSFER if act.stage == "begun" else EventKind.TRANSFERRED
    return _OF_ACTIONS.get(Action(act.action), EventKind.ACCESSED)


_OF_ACTIONS: Final = {
    Action.STORE: EventKind.TRANSFERRED,
    Action.EXPORT: EventKind.EXPORT,
    Action.IMPORT: EventKind.IMPORT,
    Action.SHRED: EventKind.DELETED,
    Action.FINISH_SHRED: EventKind.DELETED,
}


def messages_of(act: Act, source: Source) -> Iterator[AuditMessage]:
    """The messages of an act, one for each patient where a message is about one."""
    kind = kind_of(act)
    whole = AuditMessage(
        kind=kind,
        types=_types(kind, act),
        action_code=act.code if kind in _TELLS_CODE and act.code != "E" else _CODES.get(kind, "E"),
        at_ms=act.at_ms,
        outcome=act.outcome,
        description=act.reason,
        participants=tuple(_participants(kind, act, source)),
        objects=tuple(_objects(kind, act, source)),
        source=source,
    )
    if kind not in _OF_ONE_PATIENT:
        yield whole
        return
    for _, some in groupby(sorted(act.subjects, key=_patient), key=_patient):
        yield replace(whole, objects=tuple(_of_patient(list(some))))


_TELLS_CODE: Final = {EventKind.TRANSFERRED, EventKind.ACCESSED}
_CODES: Final = {
    EventKind.TRANSFERRED: "R",
    EventKind.ACCESSED: "R",
    EventKind.LOG_USED: "R",
    EventKind.DELETED: "D",
    EventKind.EXPORT: "R",
    EventKind.IMPORT: "C",
}  # E for every other one
_OF_ONE_PATIENT: Final = {
    EventKind.BEGIN_TRANSFER,
    EventKind.TRANSFERRED,
    EventKind.ACCESSED,
    EventKind.DELETED,
    EventKind.EXPORT,
    EventKind.IMPORT,
}


def _types(kind: EventKind, act: Act) -> tuple[Coded, ...]:
    if kind is EventKind.APPLICATION:
        return (codes.START if act.stage == "begun" else codes.STOP,)
    if kind is EventKind.AUTHENTICATION:
        return (codes.LOGIN if act.stage == "begun" else codes.LOGOUT,)
    if kind is EventKind.ALERT:
        is_denied = act.outcome >= _DENIED
        return (codes.RESTRICTED if is_denied else ALERTS.get(Action(act.action), codes.RESTRICTED),)
    return ()


def _participants(kind: EventKind, act: Act, source: Source) -> Sequence[Participant]:
    here = Participant(source.name, False, ae_title=source.ae_title)
    who = _of_actor(act.who)
    to_here = replace(who, roles=(codes.SOURCE,)), replace(here, roles=(codes.DESTINATION,))
    found: Sequence[Participant] = who, here  # of an alert, or an authentication
    if kind is EventKind.APPLICATION:
        found = replace(here, roles=(codes.APPLICATION_ROLE,)), replace(who, roles=(codes.LAUNCHER,))
    elif kind is EventKind.QUERY or (kind is EventKind.TRANSFERRED and act.action == Action.STORE):
        found = to_here
    elif kind in {EventKind.TRANSFERRED, EventKind.BEGIN_TRANSFER}:
        found = _sending(act, who, replace(here, roles=(codes.SOURCE,)))
    elif kind in {EventKind.EXPORT, EventKind.IMPORT}:
        is_export = kind is EventKind.EXPORT
        own, other = (codes.SOURCE, codes.DESTINATION_MEDIA) if is_export else (codes.DESTINATION, codes.SOURCE_MEDIA)
        found = replace(who, roles=(own,)), Participant("files", False, (other,), media=codes.URI_MEDIA)
    elif kind in {EventKind.LOG_USED, EventKind.DELETED, EventKind.ACCESSED}:
        found = (who,)
    return found


def _sending(act: Act, who: Participant, here: Participant) -> Sequence[Participant]:
    if act.action != Action.MOVE:
        return here, replace(who, roles=(codes.DESTINATION,))
    return here, Participant(act.target or _UNKNOWN, False, (codes.DESTINATION,), ae_title=act.target), who


def _of_actor(who: Actor) -> Participant:
    user_id = who.user or who.account or who.ae_title or who.name or who.kind
    return Participant(user_id, True, ae_title=who.ae_title if who.kind == "peer" else "", name=who.name, host=who.host)


def _objects(kind: EventKind, act: Act, source: Source) -> Iterator[ParticipantObject]:
    if kind is EventKind.QUERY:
        yield ParticipantObject(
            act.target, codes.CLASS_ID, 2, 3, query=act.query, details=(("TransferSyntax", act.syntax),)
        )
    elif kind is EventKind.LOG_USED:
        yield ParticipantObject(f"coffer:{source.name}", codes.URI, 2, 13, name="Security Audit Log")
    elif kind is EventKind.ALERT:
        said = " ".join(filter(None, (act.action, act.resource, act.target, act.reason)))
        what = f"coffer:{source.name}/{act.action}"
        yield ParticipantObject(what, codes.URI, 2, 13, name=act.action, details=(("Alert Description", said),))


def _patient(subject: Subject) -> tuple[str, str]:
    return subject.patient, subject.issuer


def _of_patient(subjects: Sequence[Subject]) -> Iterator[ParticipantObject]:
    """The studies, and the patient whose they are."""
    for each in subjects:
        classes = tuple((count.sop_class, count.objects) for count in each.classes)
        yield ParticipantObject(each.study or _UNKNOWN, codes.STUDY_ID, 2, 3, classes=classes)
    patient, issuer = _patient(subjects[0])
    known = f"{patient}^^^{issuer}" if issuer else patient
    yield ParticipantObject(known or _UNKNOWN, codes.PATIENT_NUMBER, 1, 1)
