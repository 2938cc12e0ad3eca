"""All parts of studies in memory: the searchable table and the totals, filled from the rows on disk.

Rule: a view of `Tables`, never ahead of them. A thread of its own fills it, because opening the rows of a large archive
takes a while; `index.tables.loading` prevents it from overwriting what is put meanwhile. It decides no match.
"""

from __future__ import annotations

import threading
from itertools import islice
from typing import Final

import msgspec

from coffer.index.instance.identity import PartId, StudyPatients
from coffer.index.tables.candidates import StudyTable, has_same_columns
from coffer.index.tables.loading import Loading
from coffer.index.tables.rows import StudyRow
from coffer.index.tables.sealed_rows import Ref, Tables, number_of
from coffer.keys.errors import CofferError, UnavailableError

__all__ = ["Catalogue"]

_TOTALS: Final = 9
_PAGE: Final = 200  # a writer waits for one page at most


class Catalogue:
    """Created empty; `load` fills it. The caller of `load`, `update` and `drop` holds the tables' lock."""

    def __init__(self, tables: Tables) -> None:
        self.table = StudyTable()
        self._tables = tables
        self._totals = [0] * _TOTALS
        self._unreadable: set[Ref] = set()
        self._shared: dict[str, dict[Ref, PartId]] = {}  # the shown parts of studies that have several
        self._stale: set[Ref] = set()
        self._loading = Loading()
        self._loaders: list[threading.Thread] = []

    def load(self) -> int:
        """Start again from what is on disk; returns the number of the next new study."""
        self._totals = [0] * _TOTALS
        self._unreadable.clear()
        self._shared.clear()
        self._stale.clear()
        self.table.clear()
        self._loading.stop()
        self._loading = Loading()
        last = self._tables.store.last("study")
        if last is None:
            self.table.index()
            self._loading.finish()
            return 1
        loader = threading.Thread(target=self._fill, args=(self._loading,), name="index-loader", daemon=True)
        self._loaders = [*(each for each in self._loaders if each.is_alive()), loader]
        loader.start()
        return number_of(last) + 1

    def _fill(self, loading: Loading) -> None:
        try:
            studies = self._tables.all_studies()
            while page := list(islice(studies, _PAGE)):
                with self._tables.lock:
                    if loading.is_stopped:
                        return
                    fresh = loading.take(page)
                    self._unreadable.update(ref for ref, row in fresh if row is None)
                    readable = [(number_of(ref), row) for ref, row in fresh if row is not None]
                    for ref, row in fresh:
                        if row is not None:
                            self._count(1, row)
                            self._track(ref, row)
                    self.table.put(readable)
            with self._tables.lock:
                self.table.index()
                loading.finish()
        except CofferError as error:
            loading.finish(error)
        except Exception as error:  # noqa: BLE001  # the callers that wait for the end of the filling must get an error
            what = type(error).__name__
            loading.finish(UnavailableError(f"the index could not be read: {what}", hint="restart Coffer"))

    @property
    def is_loaded(self) -> bool:
        """Whether the table is filled."""
        return self._loading.is_done

    def require_sound(self) -> None:
        """Raise the error that ended the filling, if one did: IntegrityError for a damaged row."""
        if self._loading.error is not None:
            raise self._loading.error

    def distrust(self, error: CofferError) -> None:
        """From now on raise `error` instead of answering: the rows are not those that were written."""
        self._loading.finish(error)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is filled or stopped, at most `seconds`; False if it is neither. Raises the error that ended
        the filling."""
        return self._loading.wait(seconds) or self._loading.is_stopped

    def update(self, ref: Ref, before: StudyRow | None, after: StudyRow | None) -> None:
        """Follow a change of a part's row; None: it was, or is, absent or hidden."""
        is_new = self._loading.claim(ref) or ref in self._unreadable
        if before is not None and not is_new:
            self._count(-1, before)
        if after is None:
            self.table.remove(number_of(ref))
            if before is not None:
                self._track(ref, msgspec.structs.replace(before, instances=0))
            return
        self._count(1, after)
        if after.shared or after.differing_series or after.attributes.stale or ref in self._stale:
            self._track(ref, after)
        if before is None or is_new or not has_same_columns(before, after):
            self.table.put([(number_of(ref), after)])

    def drop(self, ref: Ref) -> None:
        """A part's rows were removed from the tables."""
        self._loading.claim(ref)
        self._unreadable.discard(ref)

    def _count(self, sign: int, row: StudyRow) -> None:
        numbers = (
            row.is_shown,
            row.series,
            row.instances,
            row.versions - row.instances,
            row.unindexed,
            row.data_bytes,
            bool(row.attributes.differing),
            row.differing_series,
            0 if row.study_uid else row.instances,
        )
        for i, number in enumerate(numbers):
            self._totals[i] += sign * number

    def _track(self, ref: Ref, row: StudyRow) -> None:
        """Remember whether it is one of several parts of a study, and whether its values must be merged again."""
        if row.shared and row.is_shown:
            self._shared.setdefault(row.study_uid, {})[ref] = row.part
        elif row.study_uid in self._shared:
            self._shared[row.study_uid].pop(ref, None)
            if not self._shared[row.study_uid]:
                del self._shared[row.study_uid]
        if row.attributes.stale and row.instances:
            self._stale.add(ref)
        else:
            self._stale.discard(ref)

    def totals(self) -> list[int]:
        """Studies, series, instances, versions that are not served, unindexed ones, bytes of data sets, studies and
        series with contradictions, instances without a study, Study Instance UIDs of several patients, and parts whose
        key is gone."""
        several = [(len(parts), StudyPatients(parts.values()).count) for parts in self._shared.values()]
        studies = self._totals[0] - sum(parts - patients for parts, patients in several)
        return [studies, *self._totals[1:9], sum(patients > 1 for _, patients in several), len(self._unreadable)]

    def held(self) -> int:
        """The number of versions of instances, served or not."""
        return self._totals[2] + self._totals[3]

    def stale(self) -> list[Ref]:
        """The parts whose values must be merged again from their instances."""
        return list(self._stale)

    def stop(self) -> None:
        """End the filling: LMDB must not be closed while a thread reads it."""
        self._loading.stop()
        for loader in self._loaders:
            loader.join()

    def close(self) -> None:
        """End the filling and drop the table."""
        self.stop()
        self.table.close()
