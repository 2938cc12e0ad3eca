"""The associations that one process serves: one thread for each, and an orderly end for all."""

import threading
import time
from collections.abc import Callable

from coffer.server.dimse.acceptor import Acceptor
from coffer.server.observe.logs import get_logger

_log = get_logger()


class Associations:
    """Runs acceptors. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Acceptor] = set()

    def begin(self, acceptor: Acceptor, ended: Callable[[], None]) -> None:
        """Serve an association in a thread of its own; `ended` is called once when it is over.

        Raises RuntimeError if the system provides no thread, and MemoryError: then nothing was started.
        """
        with self._lock:
            self._open.add(acceptor)
        try:
            threading.Thread(target=self._serve, args=(acceptor, ended), daemon=True).start()
        except BaseException:
            with self._lock:
                self._open.discard(acceptor)
            raise

    def _serve(self, acceptor: Acceptor, ended: Callable[[], None]) -> None:
        try:
            acceptor.serve()
        except Exception:  # noqa: BLE001  # one association must not take the process with it
            _log.exception("an association ended with an internal error", name="association.failed")
        finally:
            with self._lock:
                self._open.discard(acceptor)
            ended()

    def stop(self, grace_seconds: float) -> None:
        """Let running operations end, abort the rest after `grace_seconds`; returns when all threads are done."""
        deadline = time.monotonic() + grace_seconds
        while acceptors := self._all():
            late = time.monotonic() > deadline
            for acceptor in acceptors:
                if late or acceptor.is_idle:
                    acceptor.abort()
            time.sleep(0.02)

    def _all(self) -> list[Acceptor]:
        with self._lock:
            return list(self._open)
