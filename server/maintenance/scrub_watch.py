"""The scrub in the server: a slow thread that reads the log, keeps what it finds, and says so until somebody answers.

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
from coffer.server.engine.vault import Vault
from coffer.server.host.watched import Watched
from coffer.server.observe.metrics import Metrics

__all__ = ["Scrubbing"]

_log = structlog.get_logger(__name__)
_SECONDS_A_DAY: Final = 86_400.0
_SLICE_SECONDS: Final = 30.0  # the archive grows: the rate is looked at again after this
_RETRY_SECONDS: Final = 60.0
_LOWEST: Final = 19


class Scrubbing:
    """Scrubs from `start` to `stop`. `days` is how long a pass takes."""

    def __init__(self, vault: Vault, metrics: Metrics, days: float) -> None:
        self._vault = vault
        self._metrics = metrics
        self._days = days
        self._stopping = threading.Event()
        self.watched = Watched("the scrub", self._run, self._stopping)
        self.ledger = FindingStore(vault.folder.scrub)
        self._scrub = Scrub(
            vault.folder,
            remembered=lambda: remembered_checkpoint(vault.keyring.witness(), vault.folder),
            now_ms=clock_ms,
            pace=self._pace,
            on_finding=self._tell,
        )

    def start(self) -> None:
        """Begin, or go on where the last run stopped. What was found before and waits for an answer is logged again."""
        for entry in self.ledger.open_entries():
            _log.error("a finding waits for an answer", finding=entry.name, what=entry.what, record=entry.record)
        self._metrics.attach_scrub(self.facts)
        self.watched.start()

    def stop(self) -> None:
        """End between two bites; where it is, is durable on return."""
        self._stopping.set()
        self.watched.join()
        self._metrics.attach_scrub(None)

    def concerns(self) -> list[str]:
        """What a human should look at, for /readyz; nothing when all is well."""
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

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Linux gives each thread a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        while not self._stopping.is_set():
            try:
                self._step()
            except StoppedError:
                break
            except (CofferError, OSError) as error:
                _log.error("the scrub cannot go on now", cause=str(error))
                self._stopping.wait(_RETRY_SECONDS)
        with contextlib.suppress(CofferError):
            self._scrub.save()

    def _step(self) -> None:
        looked = self._scrub.segment()
        self._metrics.scrubbed(looked.bodies, looked.bytes)
        if not looked.segment:
            self._stopping.wait(_RETRY_SECONDS)
            return
        self._settle(looked)

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
            if self._stopping.wait(wait):
                raise StoppedError
            left -= max(time.monotonic() - started, wait) * rate

    def _total(self) -> int:
        folder = self._vault.folder
        return folder.log_size()
