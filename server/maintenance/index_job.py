"""Checks the whole index: once after the start, and then once in each pass of the scrub.

Rule: an index that was altered, or does not have what the log has, is evidence. It is told as a finding, by a metric
and to /readyz, and from then on nothing is answered from it and nothing is stored; it is not emptied. An administrator
has it made anew from the log (`coffer index rebuild`), which keeps it.
"""

import threading
from contextlib import suppress
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.findings import FindingStore, RecordedFinding
from coffer.archive.verify.report import Finding
from coffer.keys.clock import clock_ms
from coffer.keys.errors import CofferError, FormatError, IntegrityError
from coffer.server.engine.archive import WritableArchive
from coffer.server.observe.logs import get_logger
from coffer.server.observe.metrics import Metrics

__all__ = ["IndexJob", "drop_index_findings", "is_about_index"]

_log = get_logger()
_ABOUT: Final = "the index: "
_SECONDS_A_DAY: Final = 86_400.0
_RETRY_SECONDS: Final = 60.0
_LEAST_SECONDS: Final = 60.0
_NEVER_SECONDS: Final = 1e9
_REMEDY: Final = "find out who can write the archive folder; stop the server, run coffer index rebuild, start it again"


def is_about_index(entry: RecordedFinding) -> bool:
    """Whether a recorded finding is about the index."""
    return entry.what.startswith(_ABOUT)


def drop_index_findings(folder: ArchiveFolder) -> None:
    """Drop the findings about an index that is right, or was replaced; durable on return."""
    findings = FindingStore(folder.scrub)
    entries = findings.entries()
    if any(map(is_about_index, entries)):
        left = [Finding(e.segment, e.offset, e.record, e.what) for e in entries if not is_about_index(e)]
        for entry in findings.settle({0}, left):
            _log.info("the index is as it was written", name="finding.dropped", finding=entry.name, what=entry.what)


class IndexJob:
    """The `server.host.job.Job` that checks the index. `days` is how long a pass of the scrub takes; 0: none."""

    name: Final = "the check of the index"
    patience_seconds: float | None = None

    def __init__(self, archive: WritableArchive, metrics: Metrics, days: float) -> None:
        self._archive = archive
        self._metrics = metrics
        self._days = days
        self.stopping = threading.Event()
        self._what: str | None = None

    def begin(self) -> None:
        """Do nothing: the archive is open."""

    def turn(self) -> float:
        """Check it, or begin again later where it could not be read."""
        try:
            self._settle(self._archive.check_index(lambda: not self.stopping.is_set()))
        except IntegrityError as error:  # met on the way
            self._settle(str(error))
        except (CofferError, OSError) as error:
            _log.error("the index was not checked", name="index.check_failed", cause=str(error))
            return _RETRY_SECONDS
        return max(self._days * _SECONDS_A_DAY, _LEAST_SECONDS) if self._days else _NEVER_SECONDS

    def end(self) -> None:
        """Do nothing: nothing is held."""

    def concerns(self) -> list[str]:
        """Return what is wrong with the index, if anything."""
        return [] if self._what is None else [f"{_ABOUT}{self._what}: {_REMEDY}"]

    def _settle(self, what: str | None) -> None:
        if self.stopping.is_set():
            return
        self._what = what
        self._metrics.index_checked(what is None)
        if what is None:
            with suppress(FormatError):  # what cannot be read as a finding says nothing about the index
                drop_index_findings(self._archive.folder)
            _log.info("the index is what was written, and has what the log has", name="index.checked")
            return
        FindingStore(self._archive.folder.scrub).add(Finding(0, 0, None, _ABOUT + what), clock_ms())
        _log.error("the index was altered, or contradicts the log", name="index.altered", cause=what, remedy=_REMEDY)
