"""The parts in an index, their keys and their versions: for storing, holding, erasing and listing.

Rule: reads only; an answer holds everything that was accepted before the question. `index.index` is the whole.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator

from coffer.index.instance.identity import PartId, are_apart
from coffer.index.query.parts import Part, Parts, StoredVersion
from coffer.index.query.views import Views
from coffer.index.tables.catalogue import Catalogue
from coffer.index.tables.lookup import Lookup
from coffer.index.tables.rows import Version
from coffer.index.tables.sealed_rows import STUDY, Tables

__all__ = ["PartListing"]


class PartListing:
    """The part of `index.index.Index` that lists. Thread-safe."""

    def __init__(self, tables: Tables, catalogue: Catalogue, lookup: Lookup, views: Views) -> None:
        self._tables = tables
        self._catalogue = catalogue
        self._lookup = lookup
        self._parts = Parts(tables, catalogue, lookup, views)

    def _begin(self) -> None:
        """Begin to answer: everything that was accepted before is in the answer. Raises IndexAlteredError if the index
        was found altered."""
        self._catalogue.require_sound()
        self.follow()

    @abstractmethod
    def follow(self) -> None:
        """Apply what was accepted, and hide what was shredded, until now."""

    def is_stored(self, name: bytes) -> bool:
        """Whether a study with this `study_token` is stored and can be opened."""
        return any(self._lookup.study(ref) is not None for ref in self._tables.under(bytes((STUDY,)) + name))

    def key_ids_of(self, study_uid: str) -> frozenset[bytes]:
        """The ids of every key that a version of a study's instances is sealed under; none for an unknown study."""
        return frozenset(key_id for part in self.parts(study_uid) for key_id in part.key_ids)

    def has_another_patient(self, part: PartId) -> bool:
        """Whether objects of another patient are served under the part's Study Instance UID."""
        beside = self._lookup.parts_of_study(part.study_uid)
        return any(row.instances and are_apart(row.part, part) for _, row in beside)

    def newest_of(self, study_uid: str, series_uid: str, sop_instance: str) -> tuple[PartId, Version] | None:
        """The version of an instance of a series of a study that arrived last, served or not, and its part."""
        chain = self._lookup.chain(study_uid, series_uid, sop_instance)
        found = ((link.study.part, version) for link in chain for version in link.row.versions)
        return max(found, key=lambda each: each[1].order, default=None)

    def parts(self, study_uid: str) -> list[Part]:
        """The parts of a study, oldest first; none for an unknown one, or for ""."""
        self._begin()
        return self._parts.of_study(study_uid)

    def parts_of_patient(self, patient_id: str, issuer: str | None = None) -> list[Part]:
        """A patient's parts, including those in which nothing is served (`index.query.parts.Parts.of_patient`)."""
        self._begin()
        self._catalogue.wait()
        return self._parts.of_patient(patient_id, issuer)

    def parts_of_instance(self, sop_instance: str) -> list[Part]:
        """The parts that have a version under a SOP Instance UID, including that of an object without a study."""
        self._begin()
        return self._parts.of_instance(sop_instance)

    def all_parts(self) -> Iterator[Part]:
        """Every part, oldest first."""
        self._begin()
        self._catalogue.wait()
        return self._parts.all()

    def without_study(self) -> Iterator[str]:
        """The SOP Instance UIDs of objects in no study, which no query shows, oldest first; a UID that several patients
        have is listed once for each."""
        self._begin()
        self._catalogue.wait()
        return self._parts.without_study()

    def versions(self, sop_instance: str) -> list[StoredVersion]:
        """Every version under a SOP Instance UID, oldest first in each series of each study that has it."""
        self._begin()
        return self._parts.versions(sop_instance)

    def served_without(self, going: Collection[PartId]) -> dict[PartId, int]:
        """How many instances each other part would serve in place of the versions of `going` if those were removed."""
        self._begin()
        return self._parts.served_without(going)
