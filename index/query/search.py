"""What an index answers: queries, exact unique keys, and totals.

Rule: reads only. An answer holds everything that was accepted before the question. Questions that need the searchable
table wait until it is filled, or yield None meanwhile so that the caller can do other work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from coffer.index.dicom.attributes import SERIES_UID, SOP_INSTANCE, STUDY_UID, Values
from coffer.index.query.listing import PartListing
from coffer.index.query.locate import Located, Locator
from coffer.index.query.query import Query
from coffer.index.query.views import Views
from coffer.index.tables.catalogue import Catalogue
from coffer.index.tables.lookup import Lookup
from coffer.index.tables.progress import Progress
from coffer.index.tables.sealed_rows import Tables

__all__ = ["IndexSearch", "IndexStats"]

_LOADING_SECONDS: Final = 0.01  # a search that waits for the table yields None this often

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IndexStats:
    """Totals over all studies, each part that is shown counted once.

    `conflicts` are versions that are not served. In `differing_studies` and `differing_series` the served instances
    contradict each other in a value of their study (its patient included) or series. `without_study` are instances
    of no study, which no query shows. `shared_studies` are Study Instance UIDs with objects of several patients.
    `unreadable_studies` have rows whose key is gone (shredded, or the keyring is too old). `skipped` objects are
    stored but in no row, because they could not be read or opened.
    """

    studies: int
    series: int
    instances: int
    conflicts: int
    unindexed: int
    data_bytes: int
    differing_studies: int
    differing_series: int
    without_study: int
    shared_studies: int
    unreadable_studies: int
    applied_seq: int
    skipped: int


class IndexSearch(PartListing):
    """The part of `index.index.Index` that answers. Thread-safe."""

    def __init__(self, tables: Tables, catalogue: Catalogue, lookup: Lookup, views: Views, progress: Progress) -> None:
        super().__init__(tables, catalogue, lookup, views)
        self._views = views
        self._progress = progress
        self._locator = Locator(tables, lookup, views)

    def query(self, level: str, keys: Mapping[int, Values], model: str) -> Iterator[dict[int, Values]]:
        """Yield what matches `keys` at a level ("PATIENT", "STUDY", "SERIES", "IMAGE") of `model` ("patient", "study").

        Each mapping holds every key of the query, () if nothing is known. Raises IdentifierError at the call, before
        the first row, for keys that violate the hierarchy.
        """
        return (row for row in self.query_in_steps(level, keys, model) if row is not None)

    def query_in_steps(self, level: str, keys: Mapping[int, Values], model: str) -> Iterator[dict[int, Values] | None]:
        """As `query`, but also yields None periodically while nothing matches or the searchable table is being
        filled, so that the caller can check for cancellation."""
        self._begin()
        steps = Query(level, keys, model, self._tables, self._catalogue.table, self._views).run()
        return self._once_loaded(steps)

    def _once_loaded(self, steps: Iterator[T]) -> Iterator[T | None]:
        yield from self.loading()
        yield from steps

    @property
    def is_loaded(self) -> bool:
        """Whether `query` and `stats` answer without waiting for the searchable table."""
        return self._catalogue.is_loaded

    def loading(self) -> Iterator[None]:
        """Yield None periodically until the searchable table is filled. Raises the error that ended the filling."""
        while not self._catalogue.wait(_LOADING_SECONDS):
            yield None

    def locate(self, keys: Mapping[int, Sequence[str]], issuer: str | None = None) -> Iterator[Located]:
        """Yield the instances under exact unique keys, as `index.query.locate.Locator.locate` says."""
        self._begin()
        if not any(keys.get(tag) for tag in (STUDY_UID, SERIES_UID, SOP_INSTANCE)):
            self._catalogue.wait()
        return self._locator.locate(keys, issuer)

    def locate_in_steps(self, keys: Mapping[int, Sequence[str]], issuer: str | None = None) -> Iterator[Located | None]:
        """As `locate`, but also yields None periodically while the searchable table is being filled."""
        self._begin()
        located = self._locator.locate(keys, issuer)
        if any(keys.get(tag) for tag in (STUDY_UID, SERIES_UID, SOP_INSTANCE)):
            return located
        return self._once_loaded(located)

    def issuers_of(self, patient_id: str, studies: Sequence[str] = ()) -> set[str]:
        """The issuers ("": none) of the patients with this ID who have any of these studies, or any study at all."""
        self._begin()
        if not studies:
            self._catalogue.wait()
        return self._locator.issuers_of(patient_id, studies)

    def stats(self) -> IndexStats:
        """Totals as they are now; waits for the searchable table."""
        self._begin()
        self._catalogue.wait()
        for ref in self._catalogue.stale():
            if (row := self._lookup.study(ref)) is not None:
                self._views.refreshed(ref, row)
        with self._tables.lock:
            progress = self._progress.applied_seq, self._progress.skipped_objects
            return IndexStats(*[*self._catalogue.totals(), *progress])
