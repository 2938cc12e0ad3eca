"""Which studies, and which of their attributes, a permission covers: every limit that narrows it.

Rule: pure. It judges facts that the caller has looked up, and looks up none itself. What lies outside is treated as if
it were not in the archive: whoever may not see a study learns nothing of it, counts included.
"""

import datetime as dt
from collections.abc import Callable, Collection
from dataclasses import dataclass

__all__ = ["EVERYTHING", "Scope", "StudyFacts"]


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What a scope is judged by: the Patient ID, the Study Date as DICOM text (YYYYMMDD, or empty), the modalities, and
    a function that returns the AE titles that sent it, because only few scopes need them."""

    patient_id: str
    study_date: str
    modalities: Collection[str]
    sources: Callable[[], Collection[str]]


@dataclass(frozen=True, slots=True)
class Scope:
    """The limits of one permission; None: not limited in this respect, an empty set: nothing.

    `sources` are AE titles that sent a study, `patients` are Patient IDs, `days` is the greatest age of the Study Date
    in days (1: since yesterday), `attributes` are the tags that may be asked for and returned, `levels` those of a
    query (PS3.4 C.6), `sop_classes` those of objects that may be stored.
    """

    sources: frozenset[str] | None = None
    modalities: frozenset[str] | None = None
    patients: frozenset[str] | None = None
    days: int | None = None
    attributes: frozenset[int] | None = None
    levels: frozenset[str] | None = None
    sop_classes: frozenset[str] | None = None

    @property
    def is_by_study(self) -> bool:
        """Whether a study has to be looked at: a query for patients alone cannot be judged."""
        return self.sources is not None or self.modalities is not None or self.days is not None

    def covers(self, facts: StudyFacts, today: dt.date) -> bool:
        """Whether a study, or a series with its own modality, lies inside. A study without a date is of no known age,
        so a limit of days excludes it; one from the future is not older than the limit."""
        if self.patients is not None and facts.patient_id not in self.patients:
            return False
        if self.modalities is not None and not self.modalities.intersection(facts.modalities):
            return False
        if self.days is not None and not _is_recent(facts.study_date, today, self.days):
            return False
        return self.sources is None or not self.sources.isdisjoint(facts.sources())

    def shows(self, tag: int) -> bool:
        """Whether an attribute may be asked for and returned."""
        return self.attributes is None or tag in self.attributes

    def takes(self, sop_class: str) -> bool:
        """Whether an object of this SOP class may be stored."""
        return self.sop_classes is None or sop_class in self.sop_classes


EVERYTHING = Scope()


def _is_recent(study_date: str, today: dt.date, days: int) -> bool:
    try:
        # DICOM text, compared with the day of this machine's clock: no time zone is known of either.
        return dt.datetime.strptime(study_date.strip(), "%Y%m%d").date() >= today - dt.timedelta(days)  # noqa: DTZ007
    except ValueError:
        return False
