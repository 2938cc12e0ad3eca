"""The scrub in the server: a slow job that reads the log, keeps what it finds, and says so until somebody answers.

Rule: it reads at the rate that ends a pass in the configured days, in small bites, at the lowest priority, and never
stops the service. A finding is logged as an error, kept in `scrub/`, counted in the metrics and shown by /readyz.
"""

import contextlib
import os
import threading
import time
from typing import Final

import structlog

from coffer.archive.tree.checkpoint import remembered_checkpoint
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.report import Finding
from coffer.archive.verify.scrub import Scrub, ScrubStep, StoppedError
from coffer.keys.clock import clock_ms
from coffer.keys.errors import CofferError
from coffer.server.engine.archive import ReadableArchive
from coffer.server.observe.metrics import Metrics

__all__ = ["ScrubJob"]

_log = structlog.get_logger(__name__)
_SECONDS_A_DAY: Final = 86_400.0
_SLICE_SECONDS: Final = 30.0  # the archive grows: the rate is looked at again after this
_RETRY_SECONDS: Final = 60.0
_LOWEST: Final = 19


class ScrubJob:
    """The `server.host.job.Job` that scrubs. `days` is how long a pass takes. A stop waits for the bite under way."""

    name: Final = "the scrub"
    patience_seconds: float | None = None

    def __init__(self, archive: ReadableArchive, metrics: Metrics, days: float) -> None:
        self._archive = archive
        self._metrics = metrics
        self._days = days
        self.stopping = threading.Event()
        self.ledger = FindingStore(archive.folder.scrub)
        self._scrub = Scrub(
            archive.folder,
            remembered=lambda: remembered_checkpoint(archive.keyring.remembered_checkpoint(), archive.folder),
            now_ms=clock_ms,
            pace=self._pace,
            on_finding=self._tell,
        )

    def begin(self) -> None:
        """Log again what was found before and waits for an answer. Raises CofferError where that cannot be read."""
        for entry in self.ledger.open_entries():
            _log.error("a finding waits for an answer", finding=entry.name, what=entry.what, record=entry.record)
        self._metrics.attach_scrub(self.facts)

    def turn(self) -> float:
        """Read one segment, or what is left of it, at the pace that was configured."""
        with contextlib.suppress(OSError, AttributeError):  # Linux gives each thread a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        try:
            looked = self._scrub.segment()
            self._metrics.scrubbed(looked.bodies, looked.bytes)
            if not looked.segment:
                return _RETRY_SECONDS
            self._settle(looked)
        except StoppedError:
            return 0.0
        except (CofferError, OSError) as error:
            _log.error("the scrub cannot go on now", cause=str(error))
            return _RETRY_SECONDS
        return 0.0

    def end(self) -> None:
        """Keep where it is, durable on return."""
        with contextlib.suppress(CofferError, OSError):  # the next run reads a little twice
            self._scrub.save()
        self._metrics.attach_scrub(None)

    def concerns(self) -> list[str]:
        """Findings that wait for an answer."""
        try:
            waiting = self.ledger.open_entries()
        except CofferError as error:
            return [str(error)]
        return [f"{len(waiting)} findings of the scrub wait for an answer: coffer scrub show"] if waiting else []

    def facts(self) -> tuple[float, int]:
        """Seconds since the segment that waits longest was read, and how many findings are open."""
        oldest = self._scrub.oldest_ms()
        age = 0.0 if oldest is None else max(clock_ms() - oldest, 0) / 1000
        return age, len(self.ledger.open_entries())

    def _settle(self, looked: ScrubStep) -> None:
        """Forget what a second look, of the whole segment, did not find again."""
        segments = {0, looked.segment} if not looked.is_resumed else {0}
        for entry in self.ledger.settle(segments, looked.findings):
            _log.info("a finding is gone", finding=entry.name, what=entry.what)

    def _tell(self, finding: Finding) -> None:
        entry = self.ledger.add(finding, clock_ms())
        if entry is not None:
            _log.error(
                "the scrub found damage", finding=entry.name, segment=finding.segment, offset=finding.offset,
                record=finding.seq, what=finding.what, way_out="coffer repair --from a backup or replica",
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
        folder = self._archive.folder
        return folder.log_size()
