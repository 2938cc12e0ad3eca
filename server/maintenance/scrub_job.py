"""The scrub in the server: a slow job that reads the log, keeps its findings, and reports them until acknowledged.

Rule: it reads in small pieces, at the rate that completes a pass in the configured days and at the lowest priority, and
never stops the service. A finding is logged as an error, kept in `scrub/`, counted in the metrics and shown by /readyz.
"""

import contextlib
import os
import threading
import time
from typing import Final

from coffer.archive.store.segment_store import total_bytes
from coffer.archive.tree.checkpoint import remembered_checkpoint
from coffer.archive.verify.findings import Acknowledgement
from coffer.archive.verify.report import Finding
from coffer.archive.verify.scrub import Scrub, ScrubStep, StoppedError
from coffer.keys.clock import clock_ms
from coffer.keys.errors import CofferError
from coffer.server.engine.archive import ReadableArchive
from coffer.server.maintenance.acknowledged import FOREIGN, findings_of
from coffer.server.maintenance.index_job import is_about_index
from coffer.server.observe.logs import get_logger
from coffer.server.observe.metrics import Metrics

__all__ = ["ScrubJob"]

_log = get_logger()
_SECONDS_A_DAY: Final = 86_400.0
_SLICE_SECONDS: Final = 30.0  # the archive grows: the rate is computed again after this
_RETRY_SECONDS: Final = 60.0
_LOWEST: Final = 19


class ScrubJob:
    """The `server.host.job.Job` that scrubs. `days` is how long a pass takes. A stop waits for the current piece."""

    name: Final = "the scrub"
    patience_seconds: float | None = None

    def __init__(self, archive: ReadableArchive, metrics: Metrics, days: float) -> None:
        self._archive = archive
        self._metrics = metrics
        self._days = days
        self.stopping = threading.Event()
        self.findings = findings_of(archive)
        self._scrub = Scrub(
            archive.folder,
            remembered=lambda: remembered_checkpoint(archive.keyring.remembered_checkpoint(), archive.folder),
            now_ms=clock_ms,
            pace=self._pace,
            on_finding=self._report,
        )

    def begin(self) -> None:
        """Log again the findings that are not acknowledged. One that cannot be read, as anybody can write who writes
        the folder, is told and stops nothing."""
        try:
            waiting = self.findings.open_entries()
        except CofferError as error:
            _log.error(
                "findings of the scrub cannot be read", name="finding.unreadable", cause=str(error), remedy=error.hint()
            )
            waiting = []
        for entry in waiting:
            _log.error(
                "a finding is not acknowledged", name="finding.reported",
                finding=entry.name, what=entry.what, record=entry.record,
                state=self.findings.acknowledgement(entry).value,
            )  # fmt: skip
        self._metrics.attach_scrub(self.facts)

    def turn(self) -> float:
        """Read one segment, or the rest of it, at the configured pace."""
        with contextlib.suppress(OSError, AttributeError):  # on Linux each thread has its own priority
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        try:
            step = self._scrub.segment()
            self._metrics.scrubbed(step.bodies, step.bytes)
            if not step.segment:
                return _RETRY_SECONDS
            self._settle(step)
        except StoppedError:
            return 0.0
        except (CofferError, OSError) as error:
            _log.error("the scrub did not continue", name="scrub.failed", cause=str(error))
            return _RETRY_SECONDS
        return 0.0

    def end(self) -> None:
        """Save its position, durable on return."""
        with contextlib.suppress(CofferError, OSError):  # the next run reads a little twice
            self._scrub.save()
        self._metrics.attach_scrub(None)

    def concerns(self) -> list[str]:
        """Return a concern if findings are not acknowledged."""
        try:
            waiting = self.findings.open_entries()
        except CofferError as error:
            return [f"{error}: {error.hint()}"]
        foreign = sum(self.findings.acknowledgement(each) is Acknowledgement.FOREIGN for each in waiting)
        found = [f"{len(waiting)} findings of the scrub wait for an answer: coffer scrub show"] if waiting else []
        return [*found, f"{foreign} {FOREIGN}"] if foreign else found

    def facts(self) -> tuple[float, int]:
        """Return the seconds since the segment that waits longest was read, and how many findings are open."""
        oldest = self._scrub.oldest_ms()
        age = 0.0 if oldest is None else max(clock_ms() - oldest, 0) / 1000
        return age, len(self.findings.open_entries())

    def _settle(self, step: ScrubStep) -> None:
        """Drop findings that a second reading, of the whole segment, did not confirm."""
        segments = {0, step.segment} if not step.is_resumed else {0}
        others = [Finding(0, 0, None, each.what) for each in self.findings.entries() if is_about_index(each)]
        for entry in self.findings.settle(segments, [*step.findings, *others]):
            _log.info("a finding was not confirmed", name="finding.dropped", finding=entry.name, what=entry.what)

    def _report(self, finding: Finding) -> None:
        entry = self.findings.add(finding, clock_ms())
        if entry is not None:
            _log.error(
                "the scrub found damage", name="finding.recorded", finding=entry.name, segment=finding.segment,
                offset=finding.offset, record=finding.seq, what=finding.what,
                remedy="coffer repair --from a backup or replica",
            )  # fmt: skip

    def _pace(self, count: int) -> None:
        """Wait until `count` more bytes may be read. Raises StoppedError once the server stops."""
        left = float(count)
        while left > 0:
            rate = max(self._total(), 1) / (self._days * _SECONDS_A_DAY)
            started, wait = time.monotonic(), min(left / rate, _SLICE_SECONDS)
            if self.stopping.wait(wait):
                raise StoppedError
            left -= max(time.monotonic() - started, wait) * rate

    def _total(self) -> int:
        return total_bytes(self._archive.folder.segment_store())
