"""Acts for the audit trail, made from what the access decision knows: a principal, an action, what it concerned.

Rule: pure. What is left out here is recorded nowhere: patient data is the ID of the patient and the UID of the study,
and what a query asked for.
"""

import base64
from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from coffer.archive.events.accesses import Act, Actor, SopClassCount, Subject
from coffer.keys.clock import clock_ms
from coffer.server.access.action import ARCHIVE, AccessRequest, Action, PurposeOfUse, Resource, ResourceKind
from coffer.server.access.principal import Principal, PrincipalKind
from coffer.server.access.rules import Deny
from coffer.server.identity.admission import Connected
from coffer.server.identity.claim import AssociationClaim, Refusal

__all__ = ["ObjectOf", "Received", "act", "actor_of", "denied", "not_let_in", "query", "stored", "subjects_of"]

Code = Literal["C", "R", "U", "D", "E"]
_CREATES: Final = {Action.STORE, Action.IMPORT, Action.CREATE}
_READS: Final = {Action.RETRIEVE, Action.MOVE, Action.EXPORT, Action.READ_AUDIT}
_DELETES: Final = {Action.SHRED, Action.FINISH_SHRED}
_SERIOUS: Final = 8
_MODELS: Final = {
    "patient": "1.2.840.10008.5.1.4.1.2.1.1",
    "study": "1.2.840.10008.5.1.4.1.2.2.1",
}  # PS3.4 C.6.1.3, C.6.2.3: what queries of the two are asked under


class ObjectOf(NamedTuple):
    """One object as an act names it: the patient's ID and its issuer, the Study Instance UID, the SOP class."""

    patient: str
    issuer: str
    study: str
    sop_class: str


def actor_of(who: Principal) -> Actor:
    """A principal as it is recorded."""
    return Actor(
        kind=who.kind.value,
        name=who.name,
        user=who.user,
        account=who.account,
        ae_title=who.ae_title,
        called_ae=who.called_ae,
        host=who.host,
        proof="" if who.proof is None else who.proof.value,
    )


def subjects_of(objects: Iterable[ObjectOf]) -> tuple[Subject, ...]:
    """What an act concerned, by patient and study in order of appearance, with the number of objects by SOP class."""
    found: dict[tuple[str, str, str], Counter[str]] = {}
    for each in objects:
        found.setdefault(each[:3], Counter())[each.sop_class] += 1
    return tuple(
        Subject(
            patient=patient,
            issuer=issuer,
            study=study,
            classes=tuple(SopClassCount(sop_class=name, objects=n) for name, n in sorted(classes.items())),
        )
        for (patient, issuer, study), classes in found.items()
    )


def act(
    who: Principal,
    action: Action,
    *,
    resource: Resource = ARCHIVE,
    code: Code | None = None,
    stage: Literal["begun", "done"] = "done",
    outcome: Literal[0, 4, 8, 12] = 0,
    reason: str = "",
    subjects: tuple[Subject, ...] = (),
) -> Act:
    """What a principal did, or is about to do, now."""
    return Act(
        at_ms=clock_ms(),
        action=action.value,
        code=_code_of(action) if code is None else code,
        stage=stage,
        outcome=outcome,
        reason=reason,
        who=actor_of(who),
        purpose=PurposeOfUse.of(who).value,
        resource=resource.kind.value,
        target=resource.name,
        subjects=subjects,
    )


class Received(NamedTuple):
    """An object that came in: from whom, what it is, whether it was held already, and whether it is a further version
    of an instance."""

    caller: Principal
    of: ObjectOf
    is_held: bool
    is_altered: bool


def stored(objects: Iterable[Received]) -> list[Act]:
    """The acts of a group of objects that came in: one for each caller, and for what was new, altered or held already
    (PS3.15 A.5.3.7: C, U, R)."""
    found: dict[tuple[Principal, Code], list[ObjectOf]] = {}
    for each in objects:
        code: Code = "R" if each.is_held else "U" if each.is_altered else "C"
        found.setdefault((each.caller, code), []).append(each.of)
    return [
        act(who, _received_by(who), code=code, subjects=subjects_of(of), resource=Resource(ResourceKind.OBJECT))
        for (who, code), of in found.items()
    ]


def _received_by(who: Principal) -> Action:
    return Action.IMPORT if who.kind is PrincipalKind.PERSON else Action.STORE


def query(who: Principal, identifier: bytes, model: str, *, implicit: bool) -> Act:
    """A query that is about to be answered: its identifier in Implicit or Explicit VR Little Endian, and the model,
    `patient` or `study`."""
    return Act(
        at_ms=clock_ms(),
        action=Action.FIND.value,
        code="E",
        who=actor_of(who),
        purpose=PurposeOfUse.of(who).value,
        resource=ResourceKind.OBJECT.value,
        target=_MODELS[model],
        query=base64.b64encode(identifier).decode(),
        syntax="1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1",
    )


def denied(asked: AccessRequest, why: Deny) -> Act:
    """What the access decision did not permit."""
    return act(asked.principal, asked.action, resource=asked.resource, outcome=_SERIOUS, reason=why.reason.value)


def not_let_in(claim: AssociationClaim, by: Connected, why: Refusal) -> Act:
    """That somebody called and was not let in."""
    caller = Principal.peer(claim.calling_ae, claim.called_ae, by.host, by.certificate)
    return act(caller, Action.ASSOCIATE, stage="begun", outcome=_SERIOUS, reason=why.value)


def _code_of(action: Action) -> Code:
    if action in _CREATES:
        return "C"
    if action in _READS:
        return "R"
    return "D" if action in _DELETES else "E"
