"""Retrieve objects: which instances an identifier names, and their bytes, verified, in a syntax that the peer accepts.

Rule: every retrieval passes the access decision and leaves a line in the access log. Bytes come from the sealed record
and are checked (AEAD, a digest of the data set) before the last of them is returned; an object that fails its check is
never completed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice

from coffer.archive.body.sealed_body import BodyReader
from coffer.index.dicom.headers import Identifier, decode_identifier
from coffer.index.instance.identity import Patient
from coffer.index.instance.object_meta import ObjectMeta
from coffer.index.instance.patient_id import identity_text
from coffer.index.query.locate import Located
from coffer.keys.errors import AmbiguousPatientError, IdentifierError, InputError
from coffer.server.access.action import Action, Resource
from coffer.server.access.decision import FULFILLED
from coffer.server.access.principal import Principal
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.bodies import Bodies
from coffer.server.observe.logs import get_logger, short_id
from coffer.server.services.api import Planned
from coffer.server.services.narrowing import Narrowing
from coffer.server.services.transcode import CONVERTIBLE, EXPLICIT_LE, Converter

_log = get_logger()

QUERY_RETRIEVE_LEVEL = 0x00080052
PATIENT_ID, STUDY_UID, SERIES_UID, SOP_UID = 0x00100020, 0x0020000D, 0x0020000E, 0x00080018
ISSUER = 0x00100021
_NO_ISSUER = '""'  # as a value of ISSUER: the patient whose objects name none
_LEVELS = {"PATIENT": PATIENT_ID, "STUDY": STUDY_UID, "SERIES": SERIES_UID, "IMAGE": SOP_UID}
_ROOTS = {"patient": ("PATIENT", "STUDY", "SERIES", "IMAGE"), "study": ("STUDY", "SERIES", "IMAGE")}


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One instance to be sent: its identity, its stored syntax, and its bytes on demand."""

    bodies: Bodies
    located: Located

    @property
    def sop_class(self) -> str:
        """The SOP Class UID."""
        return self.located.sop_class

    @property
    def sop_instance(self) -> str:
        """The SOP Instance UID."""
        return self.located.sop_instance

    @property
    def transfer_syntax(self) -> str:
        """The UID of the transfer syntax in which it is stored."""
        return self.located.version.transfer_syntax

    @property
    def length(self) -> int:
        """Bytes of the data set as stored."""
        return self.located.version.dataset_length

    @property
    def has_problem(self) -> bool:
        """Whether it could not be parsed to its end on receipt, or not all of its header could be kept."""
        return self.located.version.flags != 0

    def meta(self) -> ObjectMeta:
        """What was recorded beside the data set on receipt."""
        with self._body() as body:
            return ObjectMeta.decode(body.meta)

    def open(self, *, fast: bool = False) -> Iterator[bytes]:
        """The data set as received, in pieces; `fast` as in `BodyReader.chunks`. Raises IntegrityError,
        KeyUnavailableError or ShreddedError."""
        with self._body() as body:
            yield from body.chunks(fast=fast)

    def convertible_to(self, transfer_syntax: str) -> bool:
        """Whether `convert_to` supports this syntax: both must be uncompressed little endian."""
        return {transfer_syntax, self.transfer_syntax} <= CONVERTIBLE

    def convert_to(self, transfer_syntax: str) -> Iterator[bytes]:
        """The data set re-encoded. Raises InputError if it is not well formed or not convertible."""
        if not self.convertible_to(transfer_syntax):
            raise InputError(
                f"stored in {self.transfer_syntax}, which is not converted to {transfer_syntax}",
                hint="let the destination accept the stored transfer syntax",
            )
        with self._body() as body:
            yield from Converter(body.read, body.length, to_explicit=transfer_syntax == EXPLICIT_LE).chunks()

    def _body(self) -> AbstractContextManager[BodyReader]:
        version = self.located.version
        return self.bodies.open(self.located.study_key_id, version.content_id, version.position)


@dataclass(slots=True)
class Planning:
    """A retrieval being planned. `steps` yields the instances, or None periodically while none is found; `remark` is
    for the final response, and valid once `steps` is exhausted."""

    steps: Iterator[StoredInstance | None] = field(default_factory=lambda: iter(()))
    remark: str = ""


class Retriever:
    """Resolves what a C-MOVE, C-GET or `coffer get` requests. Safe to use from many threads."""

    def __init__(self, archive: ReadableArchive) -> None:
        self._archive = archive

    def plan(
        self,
        identifier: bytes,
        *,
        implicit: bool,
        model: str,
        caller: Principal,
        destination: str = "",
        waiting: Callable[[], None] = lambda: None,
    ) -> Planned[StoredInstance]:
        """As `plan_in_steps`, all at once; `waiting` is called at each of its pauses."""
        planning = self.plan_in_steps(
            identifier, implicit=implicit, model=model, caller=caller, destination=destination
        )
        found = []
        for step in planning.steps:
            if step is None:
                waiting()
            else:
                found.append(step)
        return Planned(found, planning.remark)

    def plan_in_steps(
        self, identifier: bytes, *, implicit: bool, model: str, caller: Principal, destination: str = ""
    ) -> "Planning":
        """The instances an identifier names, oldest study first (PS3.4 C.6.1, C.6.2), one by one.

        In the Patient Root model they belong to one patient; in Study Root they are all that have the UIDs, with a
        remark if these belong to several patients. Raises InputError with the offending tags for a bad identifier
        (PS3.4 C.4.2.1.4), AccessDeniedError; its steps raise AmbiguousPatientError if it names several patients.
        """
        narrowing = self._permitted(caller, destination)
        keys = decode_identifier(identifier, implicit=implicit)
        level = "".join(keys.text(QUERY_RETRIEVE_LEVEL)).strip()
        roots = _ROOTS[model]
        if level not in roots:
            raise IdentifierError(
                f"Query/Retrieve Level must be one of {', '.join(roots)}",
                offending=(QUERY_RETRIEVE_LEVEL,),
                hint="set (0008,0052) to a level of the information model",
            )
        chosen: dict[int, tuple[str, ...]] = {}
        without_study = level == "IMAGE" and self._is_empty(keys, STUDY_UID) and self._is_empty(keys, SERIES_UID)
        for name in roots[: roots.index(level) + 1]:
            if not (without_study and name in ("STUDY", "SERIES")):
                chosen[_LEVELS[name]] = self._unique_key(
                    keys.text(_LEVELS[name]), _LEVELS[name], is_level=name == level
                )
        planning = Planning()
        planning.steps = self._planned(
            planning, chosen, identity_text(keys.text(ISSUER)), without_study, caller, narrowing
        )
        return planning

    def _permitted(self, caller: Principal, destination: str = "") -> Narrowing:
        """What the caller may retrieve and, with a destination, what may be sent there."""
        policy = self._archive.policy
        permit = policy.require(caller, Action.RETRIEVE, fulfils=FULFILLED[Action.RETRIEVE])
        if destination:
            to = Resource.destination(destination)
            permit &= policy.require(caller, Action.MOVE, to, fulfils=FULFILLED[Action.MOVE])
        return Narrowing(self._archive.index, permit.scopes)

    def _planned(  # noqa: PLR0917  # what was asked for, by whom
        self,
        planning: "Planning",
        chosen: dict[int, tuple[str, ...]],
        said: str,
        without_study: bool,
        caller: Principal,
        narrowing: Narrowing,
    ) -> Iterator[StoredInstance | None]:
        yield from self._archive.checking()
        issuer = None
        if PATIENT_ID in chosen:
            if not said and STUDY_UID not in chosen:
                yield from self._archive.index.loading()
            issuer = self._issuer(chosen, said)
        patients: set[Patient] = set()
        studies: dict[str, None] = {}
        for one in self._found(chosen, caller, issuer, narrowing):
            if one is not None and one.located.study_uid:
                if without_study:  # docs/adr/0015
                    continue
                patients.add(one.located.patient)
                studies[one.located.study_uid] = None
            yield one
        planning.remark = self._remark(len(patients), studies, caller)

    @staticmethod
    def _is_empty(keys: Identifier, tag: int) -> bool:
        return tag in keys.values and not "".join(keys.text(tag))

    def _unique_key(self, values: Sequence[str], tag: int, *, is_level: bool) -> tuple[str, ...]:
        if tag == PATIENT_ID:  # PS3.4 C.4.2.1.4.1: a single value at every level
            values, is_level = [identity_text(values)], False
        present = tuple(v for v in values if v)
        if not present or (len(present) > 1 and not is_level) or any("*" in v or "?" in v for v in present):
            raise IdentifierError(
                f"({tag >> 16:04X},{tag & 0xFFFF:04X}) needs {'at least one value' if is_level else 'one value'}"
                " without wildcards",
                offending=(tag,),
                hint="give the unique key of every level down to the requested one",
            )
        return present

    def _issuer(self, chosen: dict[int, tuple[str, ...]], said: str) -> str | None:
        """The issuer of the patient meant: the given one, or the only one there is."""
        if said:
            return "" if said == _NO_ISSUER else said
        issuers = self._archive.index.issuers_of(chosen[PATIENT_ID][0], chosen.get(STUDY_UID, ()))
        if len(issuers) > 1:
            choices = ", ".join(issuer or _NO_ISSUER for issuer in sorted(issuers))
            raise AmbiguousPatientError(
                f"{len(issuers)} patients have this ID: give (0010,0021): {choices}",
                hint="name the issuer of the Patient ID, or retrieve by study",
                offending=(PATIENT_ID, ISSUER),
            )
        return next(iter(issuers), None)

    @staticmethod
    def _remark(count: int, studies: Iterable[str], caller: Principal) -> str:
        if count < 2:
            return ""
        _log.warning(
            "objects of several patients are sent together",
            name="retrieval.mixed_patients",
            calling_ae=caller.ae_title,
            patients=count,
            study=[short_id(uid) for uid in islice(studies, 8)],
        )
        return f"objects of {count} patients have the requested UIDs"

    def instances(
        self, keys: dict[int, tuple[str, ...]], caller: Principal, issuer: str | None = None
    ) -> Sequence[StoredInstance]:
        """The instances under exact unique keys by tag; `issuer` as in `Index.locate`. Raises AccessDeniedError."""
        narrowing = self._permitted(caller)
        return [found for found in self._found(keys, caller, issuer, narrowing) if found is not None]

    def _found(
        self, keys: dict[int, tuple[str, ...]], caller: Principal, issuer: str | None, narrowing: Narrowing
    ) -> Iterator[StoredInstance | None]:
        yield from self._archive.checking()
        count = 0
        for row in self._archive.index.locate_in_steps(keys, issuer):
            if row is None or not narrowing.has(row):
                yield None
            else:
                count += 1
                yield StoredInstance(self._archive.bodies, row)
        _log.info(
            "retrieve",
            name="retrieval.planned",
            calling_ae=caller.ae_title,
            study=[short_id(uid) for uid in keys.get(STUDY_UID, ())][:8],
            instances=count,
        )
