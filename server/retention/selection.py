"""What is to be shredded: the selected parts of studies, and whether they are still what was selected.

Rule: a part is one patient's objects of one study and has keys of its own, so it can be erased while the others stay.
If a UID or a Patient ID stands for more than one patient, the caller must name one. Nothing is destroyed here.
"""

from collections.abc import Iterable, Sequence

import msgspec

from coffer.index.index import Index
from coffer.index.instance.identity import PartId, Patient
from coffer.index.query.parts import Part
from coffer.keys.errors import AccessDeniedError, InputError, NotFoundError, UnavailableError
from coffer.keys.keyring.shred import current, is_shredded
from coffer.server.engine.archive import ReadableArchive
from coffer.server.retention import typed_ids

__all__ = [
    "PartToShred",
    "SeveralPatientsError",
    "as_now",
    "beside",
    "by_instance",
    "by_patient",
    "by_study",
    "require_same",
    "whole_studies",
]

_WITHOUT_STUDY = "coffer status --list names the objects that are in no study"


class SeveralPatientsError(InputError):
    """A UID stands for objects of several patients and the caller named none; `parts` are all of them."""

    def __init__(self, parts: Sequence[Part], patients: int) -> None:
        super().__init__(
            f"objects of {patients} patients stand under this UID: nothing was shredded",
            hint="choose one with --patient-id ID (and --issuer TEXT), or use --all-patients",
        )
        self.parts = tuple(parts)


class PartToShred(msgspec.Struct, frozen=True):
    """A part to be shredded: what it is, the ids of its keys, how much it holds, who else is in the study."""

    part: PartId
    name: bytes  # the study token: finds its rows once its key is gone
    key_ids: tuple[bytes, ...]
    instances: int
    versions: int
    others: tuple[tuple[str, str], ...] = ()  # Patient IDs and issuers

    @classmethod
    def of(cls, part: Part, study: Iterable[Part]) -> "PartToShred":
        """Return the record of one part of a study, given all of its parts."""
        others = sorted((each.patient_id, each.issuer) for each in study if each.id != part.id)
        return cls(part.id, part.name, tuple(sorted(part.key_ids)), part.instances, part.versions, tuple(others))


def by_study(
    archive: ReadableArchive,
    study_uid: str,
    patient_id: str | None = None,
    issuer: str | None = None,
    *,
    everybody: bool = False,
) -> list[PartToShred]:
    """Select the study with this UID: the part of the named patient, or with `everybody` all parts.

    Raises NotFoundError, InputError, SeveralPatientsError.
    """
    archive.require_level()
    study_uid = typed_ids.uid(study_uid, lambda text: bool(archive.index.parts(text)))
    if not study_uid:
        raise InputError("a Study Instance UID is needed", hint="coffer find shows them")
    parts = archive.index.parts(study_uid)
    if not parts:
        raise NotFoundError("the archive has no such study", hint="coffer find lists what it has")
    chosen = _of_one_patient(parts, patient_id, issuer, everybody=everybody)
    return [PartToShred.of(part, parts) for part in chosen]


def by_instance(
    archive: ReadableArchive,
    sop_instance: str,
    patient_id: str | None = None,
    issuer: str | None = None,
    *,
    everybody: bool = False,
) -> list[PartToShred]:
    """Select the object with this SOP Instance UID that belongs to no study, or whose header could not be read.

    Raises NotFoundError, InputError (also for one that belongs to a study), SeveralPatientsError.
    """
    archive.require_level()
    sop_instance = typed_ids.uid(sop_instance, lambda text: bool(archive.index.parts_of_instance(text)))
    if not sop_instance:
        raise InputError("a SOP Instance UID is needed", hint=_WITHOUT_STUDY)
    found = archive.index.parts_of_instance(sop_instance)
    parts = [part for part in found if not part.study_uid]
    if found and not parts:
        raise InputError(
            "this object belongs to a study and shares its key: it cannot be erased by itself",
            hint="coffer versions UID says which; shred the study, or one patient's part of it",
        )
    if not parts:
        raise NotFoundError("the archive has no such object", hint=_WITHOUT_STUDY)
    return [PartToShred.of(part, parts) for part in _of_one_patient(parts, patient_id, issuer, everybody=everybody)]


def by_patient(archive: ReadableArchive, patient_id: str, issuer: str | None = None) -> list[PartToShred]:
    """Select everything of the patient with exactly this ID.

    Raises NotFoundError; InputError if several issuers have assigned the ID and none is named.
    """
    archive.require_level()
    index = archive.index
    patient_id = typed_ids.patient_id(patient_id, lambda text: bool(index.parts_of_patient(text)))
    if not patient_id:
        raise InputError("a Patient ID is needed", hint="coffer find --level patient shows them")
    every = index.parts_of_patient(patient_id)
    issuer = _as_stored(issuer, [part.view_issuer for part in every])
    chosen = [part for part in every if typed_ids.is_named(issuer, part.view_issuer)]
    if not chosen:
        raise NotFoundError("the archive has no study of this patient", hint="coffer find --level patient lists them")
    issuers = {part.view_issuer for part in chosen}
    if len(issuers) > 1:
        raise InputError(
            f"{len(issuers)} issuers have assigned this Patient ID: it is not one patient's",
            hint="use --issuer TEXT (empty: the studies that name none)",
        )
    studies = [(part, beside(index, part.id)) for part in chosen]
    for _, study in studies:
        _require_own_keys(chosen, study, "coffer shred STUDY_UID --all-patients erases the whole study")
    return [PartToShred.of(part, study) for part, study in studies]


def _of_one_patient(
    parts: Sequence[Part], patient_id: str | None, issuer: str | None, *, everybody: bool
) -> Sequence[Part]:
    """Return the parts of the named patient, or of the only one."""
    if everybody:
        return parts
    patient_id = _as_stored(patient_id, [part.patient_id for part in parts])
    issuer = _as_stored(issuer, [part.view_issuer for part in parts])
    by_id = [part for part in parts if typed_ids.is_named(patient_id, part.patient_id)]
    chosen = [part for part in by_id if typed_ids.is_named(issuer, part.view_issuer)]
    if len({patient_of(part) for part in chosen}) > 1:
        raise SeveralPatientsError(parts, len({patient_of(part) for part in parts}))
    if not chosen:
        raise NotFoundError("no objects of this patient stand under this UID", hint="omit --patient-id to see whose do")
    _require_own_keys(chosen, parts, "use --all-patients")
    return chosen


def _require_own_keys(chosen: Sequence[Part], study: Iterable[Part], or_else: str) -> None:
    """Raise InputError if a part to be shredded shares a key with one that stays; `or_else` is the other remedy."""
    ids = {part.id for part in chosen}
    keys = frozenset[bytes]().union(*(part.key_ids for part in chosen))
    if any(part.id not in ids and keys & part.key_ids for part in study):
        raise InputError(
            "these objects share a key with another patient's: when stored, the issuer rules saw one patient",
            hint=f"set [patients] default_issuer as it was, or {or_else}",
        )


def _as_stored(text: str | None, stored: Sequence[str]) -> str | None:
    """Return a typed Patient ID or issuer as it is stored, if it is one of these."""
    return text if text is None else typed_ids.patient_id(text, lambda one: typed_ids.identity(one) in stored)


def patient_of(part: Part) -> Patient:
    """Return the patient of a part, as queries show it."""
    return Patient(part.patient_id, part.view_issuer)


def whole_studies(index: Index, selection: Iterable[PartToShred]) -> list[list[Part]]:
    """Return all parts of each study or object without a study in a selection, including the parts that stay.

    Raises UnavailableError if the index does not (or no longer) have a selected part: nothing is known about it then.
    """
    found: dict[tuple[str, str], list[Part]] = {}
    for each in selection:
        place = each.part.study_uid, each.part.sop_instance
        if place not in found:
            found[place] = beside(index, each.part)
        if each.part not in [part.id for part in found[place]]:
            raise _unknown()
    return list(found.values())


def as_now(archive: ReadableArchive, selection: Iterable[PartToShred]) -> list[PartToShred]:
    """Return the same parts as they are now, without those shredded meanwhile.

    Raises UnavailableError if the index lacks a part whose key lives.
    """
    archive.require_level()
    now: list[PartToShred] = []
    for each in selection:
        parts = beside(archive.index, each.part)
        part = next((part for part in parts if part.id == each.part), None)
        if part is not None:
            now.append(PartToShred.of(part, parts))
        elif _living(archive, each):
            raise _unknown()
    return now


def require_same(archive: ReadableArchive, selection: Iterable[PartToShred], now: Sequence[PartToShred]) -> None:
    """Raise AccessDeniedError if a study holds more `now` than when it was selected, or another patient's objects."""
    before = {each.part: each for each in selection}
    for each in now:
        then = before[each.part]
        is_same = {*each.key_ids} == _living(archive, then) and each.versions == then.versions
        if not is_same or not {*each.others} <= {*then.others}:
            raise AccessDeniedError(
                "a study has changed since this was requested: objects or patients were added",
                hint="look at the study now (--dry-run) and request again; coffer shred cancel REQUEST ends it",
            )


def _living(archive: ReadableArchive, part: PartToShred) -> set[bytes]:
    """Return its present key ids, without those that were shredded."""
    keys = {current(archive.keyring, key_id) for key_id in part.key_ids}
    return {key_id for key_id in keys if not is_shredded(archive.keyring, key_id)}


def beside(index: Index, one: PartId) -> list[Part]:
    """Return all parts of its study; for an object of no study, all parts of no study with its SOP Instance UID."""
    if one.study_uid:
        return index.parts(one.study_uid)
    return [part for part in index.parts_of_instance(one.sop_instance) if not part.study_uid]


def _unknown() -> UnavailableError:
    return UnavailableError("the index does not have this study (any more)", hint="see what coffer find shows now")
