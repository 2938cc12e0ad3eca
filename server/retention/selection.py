"""What is to be shredded: which parts of which studies somebody means, and whether they are still what was meant.

Rule: a part is one patient's objects of one study and has keys of its own, so one can go and the others stay. Where a
UID or a Patient ID means more than one patient, nobody guesses: whoever asks must say which. It destroys nothing.
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
    "Doomed",
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
    """A UID stands for objects of several patients and nobody has said which; `parts` are all of them."""

    def __init__(self, parts: Sequence[Part], patients: int) -> None:
        super().__init__(
            f"objects of {patients} patients stand under this UID: nothing was shredded",
            hint="say whose with --patient-id ID (and --issuer TEXT), or --all-patients",
        )
        self.parts = tuple(parts)


class Doomed(msgspec.Struct, frozen=True):
    """A part that is to be shredded: what it is, the ids of its keys, how much it holds, who else is in the study."""

    part: PartId
    name: bytes  # under which its rows are found when its key is gone
    key_ids: tuple[bytes, ...]
    instances: int
    versions: int
    others: tuple[tuple[str, str], ...] = ()  # Patient IDs and issuers

    @classmethod
    def of(cls, part: Part, study: Iterable[Part]) -> "Doomed":
        """A part of a study that has these parts."""
        others = sorted((each.patient_id, each.issuer) for each in study if each.id != part.id)
        return cls(part.id, part.name, tuple(sorted(part.key_ids)), part.instances, part.versions, tuple(others))


def by_study(
    archive: ReadableArchive,
    study_uid: str,
    patient_id: str | None = None,
    issuer: str | None = None,
    *,
    everybody: bool = False,
) -> list[Doomed]:
    """The study with this UID: of several patients' the one named, or with `everybody` all.

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
    return [Doomed.of(part, parts) for part in chosen]


def by_instance(
    archive: ReadableArchive,
    sop_instance: str,
    patient_id: str | None = None,
    issuer: str | None = None,
    *,
    everybody: bool = False,
) -> list[Doomed]:
    """The object with this SOP Instance UID that belongs to no study, or whose header could not be read.

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
    return [Doomed.of(part, parts) for part in _of_one_patient(parts, patient_id, issuer, everybody=everybody)]


def by_patient(archive: ReadableArchive, patient_id: str, issuer: str | None = None) -> list[Doomed]:
    """Everything of the patient with exactly this ID.

    Raises NotFoundError; InputError where several issuers have given the ID and none is named.
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
            f"{len(issuers)} issuers have given this Patient ID: it is not one patient's",
            hint="say --issuer TEXT (empty: where the study names none)",
        )
    studies = [(part, beside(index, part.id)) for part in chosen]
    for _, study in studies:
        _require_own_keys(chosen, study, "coffer shred STUDY_UID --all-patients takes the study whole")
    return [Doomed.of(part, study) for part, study in studies]


def _of_one_patient(
    parts: Sequence[Part], patient_id: str | None, issuer: str | None, *, everybody: bool
) -> Sequence[Part]:
    """The parts of the patient who was named, or of the only one."""
    if everybody:
        return parts
    patient_id = _as_stored(patient_id, [part.patient_id for part in parts])
    issuer = _as_stored(issuer, [part.view_issuer for part in parts])
    by_id = [part for part in parts if typed_ids.is_named(patient_id, part.patient_id)]
    chosen = [part for part in by_id if typed_ids.is_named(issuer, part.view_issuer)]
    if len({patient_of(part) for part in chosen}) > 1:
        raise SeveralPatientsError(parts, len({patient_of(part) for part in parts}))
    if not chosen:
        raise NotFoundError(
            "no objects of this patient stand under this UID", hint="leave --patient-id away to see whose do"
        )
    _require_own_keys(chosen, parts, "say --all-patients")
    return chosen


def _require_own_keys(chosen: Sequence[Part], study: Iterable[Part], or_else: str) -> None:
    """Raise InputError where a key of what goes is a key of what is to stay, too; `or_else`: what to do about it."""
    ids = {part.id for part in chosen}
    keys = frozenset[bytes]().union(*(part.key_ids for part in chosen))
    if any(part.id not in ids and keys & part.key_ids for part in study):
        raise InputError(
            "these objects share a key with another patient's: they were one patient's by the rules for issuers then",
            hint=f"set [patients] default_issuer as it was, or {or_else}",
        )


def _as_stored(text: str | None, stored: Sequence[str]) -> str | None:
    """A Patient ID or issuer that was typed, as one of these is written if it is one."""
    return text if text is None else typed_ids.patient_id(text, lambda one: typed_ids.identity(one) in stored)


def patient_of(part: Part) -> Patient:
    """The patient of a part, as queries show it."""
    return Patient(part.patient_id, part.view_issuer)


def whole_studies(index: Index, doomed: Iterable[Doomed]) -> list[list[Part]]:
    """For each study or lone object that is to be shredded, all of its parts, those that are to stay included.

    Raises UnavailableError where the index does not have (any more) what is to be shredded: nothing can be said of it.
    """
    found: dict[tuple[str, str], list[Part]] = {}
    for each in doomed:
        place = each.part.study_uid, each.part.sop_instance
        if place not in found:
            found[place] = beside(index, each.part)
        if each.part not in [part.id for part in found[place]]:
            raise _unknown()
    return list(found.values())


def as_now(archive: ReadableArchive, asked: Iterable[Doomed]) -> list[Doomed]:
    """The same parts as they are now, without those that were shredded meanwhile.

    Raises UnavailableError where the index does not have one whose key lives.
    """
    archive.require_level()
    now: list[Doomed] = []
    for each in asked:
        parts = beside(archive.index, each.part)
        part = next((part for part in parts if part.id == each.part), None)
        if part is not None:
            now.append(Doomed.of(part, parts))
        elif _living(archive, each):
            raise _unknown()
    return now


def require_same(archive: ReadableArchive, asked: Iterable[Doomed], now: Sequence[Doomed]) -> None:
    """Raise AccessDeniedError where a study holds more `now` than when it was asked for, or another patient's."""
    before = {each.part: each for each in asked}
    for each in now:
        then = before[each.part]
        is_same = {*each.key_ids} == _living(archive, then) and each.versions == then.versions
        if not is_same or not {*each.others} <= {*then.others}:
            raise AccessDeniedError(
                "a study is not what it was when this was asked for: objects or patients came in since",
                hint="look what the study is now (--dry-run), and ask again; coffer shred cancel takes a request back",
            )


def _living(archive: ReadableArchive, asked: Doomed) -> set[bytes]:
    """Its keys as they are called now, without those that were shredded."""
    keys = {current(archive.keyring, key_id) for key_id in asked.key_ids}
    return {key_id for key_id in keys if not is_shredded(archive.keyring, key_id)}


def beside(index: Index, one: PartId) -> list[Part]:
    """All parts of its study; of an object that is in none, all that is in none under its SOP Instance UID."""
    if one.study_uid:
        return index.parts(one.study_uid)
    return [part for part in index.parts_of_instance(one.sop_instance) if not part.study_uid]


def _unknown() -> UnavailableError:
    return UnavailableError("the index does not have this study (any more)", hint="look what coffer find says now")
