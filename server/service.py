"""The running server: the archive opened as its one writer, the DICOM listener and the HTTP pages, from start to stop.

Rule: HTTP answers first and last, so that a probe sees why the server is not ready; requests under way are finished
before the archive is closed. It interprets no message: the listener does.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final, Self

import structlog

from archive.allocator import keep_objects
from keys import guard
from keys.errors import CofferError, UnavailableError
from server import logs, signorder
from server.config import Config
from server.dimse.listener import Listener
from server.engine import Engine
from server.http import HttpServer, application
from server.keywatch import KeyWatch
from server.lanes import Lanes
from server.metrics import Metrics
from server.rekeywatch import RekeyWatch
from server.renewalwatch import RenewalWatch
from server.scrubbing import Scrubbing
from server.stats import ArchiveStats

__all__ = ["Server", "serve"]

_log = structlog.get_logger(__name__)

_CHECKPOINT_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 0.5
_GRACE_SECONDS: Final = 10.0


class Server:
    """A context manager that serves from enter to exit. `wait` blocks until SIGTERM, SIGINT or `stop`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._metrics = Metrics()
        self._stopping = threading.Event()
        self._state = "starting"
        self._unguarded: set[str] = set()  # what was told
        self._unsigned = ""  # why the last checkpoint was not signed
        self._engine: Engine | None = None
        self._lanes: Lanes | None = None
        self._listener: Listener | None = None
        self._scrubbing: Scrubbing | None = None
        self._key_watch: KeyWatch | None = None
        self._rekey_watch: RekeyWatch | None = None
        self._renewal_watch: RenewalWatch | None = None
        self._http = HttpServer(config.http, application(self.reasons, self._metrics.render, self.concerns))

    @property
    def engine(self) -> Engine:
        """The open archive."""
        assert self._engine is not None, "the server is not started"
        return self._engine

    @property
    def http_address(self) -> tuple[str, int]:
        """Where health and metrics are served."""
        return self._http.address

    def __enter__(self) -> Self:
        """Open the archive and listen. Raises what Engine.open raises, ConfigError for an address that is taken."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        config = self._config
        if config.http.enabled:
            self._http.start()
        _log.info("opening", archive=str(config.archive))
        self._lanes = lanes = Lanes(config)
        self._engine = engine = Engine.open(
            config, write=True, metrics=self._metrics, may_refuse=True, waiting=self._wait_for_keys
        )
        self._state = "starting"
        self._tell_unguarded()
        self._key_watch = KeyWatch(engine.keyring, engine.committer, self._metrics, config.keys.check_seconds)
        self._key_watch.start()
        self._metrics.attach(self._facts)
        lanes.start(engine)
        self._listener = Listener(config, lanes, self._metrics)
        self._listener.start()
        self._rekey_watch = RekeyWatch(engine)
        self._rekey_watch.start()
        self._renewal_watch = RenewalWatch(engine, self._metrics)
        self._renewal_watch.start()
        if config.storage.scrub_days:
            self._scrubbing = Scrubbing(engine, self._metrics, config.storage.scrub_days)
            self._scrubbing.start()
        keep_objects()
        self._state = ""
        _log.info("serving", ae_title=config.dimse.ae_title, host=config.dimse.host, port=config.dimse.port)

    def _facts(self) -> ArchiveStats:
        """The archive's gauges. Raises UnavailableError while nobody has counted yet."""
        if not self.engine.index.is_loaded:
            raise UnavailableError("the index is being read", hint="wait")
        return self.engine.stats()

    def _wait_for_keys(self, error: UnavailableError, seconds: float) -> None:
        self._state = f"waiting for the key provider, {seconds:.0f} s more: {error}"
        _log.warning(
            "waiting for the key provider", cause=str(error), way_out=error.hint(), gives_up_in_seconds=round(seconds)
        )

    def reasons(self) -> list[str]:
        """Why the server cannot do its work now; nothing when it can."""
        if self._state or self._engine is None:
            return [self._state or "starting"]
        try:
            self._engine.committer.require_accepting()
        except CofferError as error:
            return [str(error)]
        return []

    def concerns(self) -> list[str]:
        """What a human should look at although the server does its work."""
        trouble = self._engine.key_trouble if self._engine is not None else []
        told = [f"the keyring does not belong to this log: {what}: coffer keys audit" for what in trouble]
        watchers = (self._key_watch, self._renewal_watch, self._rekey_watch, self._scrubbing)
        told += [self._unsigned] if self._unsigned else []
        if self._engine is not None and not self._engine.index.is_loaded:
            told.append("the index is being read: objects are stored, queries wait")
        return told + [concern for watcher in watchers if watcher is not None for concern in watcher.concerns()]

    def wait(self) -> None:
        """Block until the process is told to end, signing checkpoints and doing what is left to do with keys meanwhile.

        After a checkpoint that was ordered the next one is a minute away too: time to copy what must fit together.
        Call from the main thread.
        """
        with self.catching_signals():
            signed = time.monotonic()
            while not self._stopping.wait(_SETTLE_SECONDS):
                self._settle()
                if self._is_asked_to_sign() or time.monotonic() - signed >= _CHECKPOINT_SECONDS:
                    signed = time.monotonic()
                    self._sign()
                    self._tell_unguarded()

    def _settle(self) -> None:
        """Do what commands in other processes began with the keys."""
        try:
            self.engine.log.require_writable()
        except CofferError:
            return  # told by readyz; the next opening does it
        try:
            self.engine.look_at_keys()
            self.engine.settle()
        except CofferError as error:
            _log.error("a change of keys is not finished", cause=str(error), way_out=error.hint())

    def _tell_unguarded(self) -> None:
        """Tell once what the system refused to do for keys in memory."""
        for what, way_out in guard.refusals().items():
            if what not in self._unguarded:
                self._unguarded.add(what)
                _log.warning("keys are less guarded than they could be", cause=what, way_out=way_out)

    def _is_asked_to_sign(self) -> bool:
        try:
            return bool(signorder.asked(self.engine.keyring))
        except CofferError:
            return False  # a keyring that cannot be read is told of by whoever needs a key

    def _sign(self) -> None:
        """Sign what was stored since the last checkpoint, so that after a crash little of the log is without one."""
        try:
            self.engine.sign_checkpoint()
            self._unsigned = ""
        except CofferError as error:
            self._unsigned = f"no checkpoint was signed: {error}"
            _log.error("no checkpoint was signed", cause=str(error), way_out=error.hint())

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """While the block runs, SIGTERM and SIGINT only let `wait` return: nothing in it is cut short."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Let `wait` return."""
        self._stopping.set()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def close(self) -> None:
        """Finish what is under way, then close everything. Harmless when repeated."""
        self._state = "stopping"
        if self._listener is not None:
            _log.info("stopping")
            self._listener.stop()
            self._listener = None
        if self._lanes is not None:
            self._lanes.stop(_GRACE_SECONDS)
            self._lanes = None
        if self._key_watch is not None:
            self._key_watch.stop()
            self._key_watch = None
        if self._renewal_watch is not None:
            self._renewal_watch.stop()
            self._renewal_watch = None
        if self._rekey_watch is not None:
            self._rekey_watch.stop()
            self._rekey_watch = None
        if self._scrubbing is not None:
            self._scrubbing.stop()
            self._scrubbing = None
        self._metrics.attach(None)
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            _log.info("stopped")
        self._http.stop()


def serve(config: Config) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises what starting raises; the archive is closed on return."""
    logs.configure(config.log)
    with Server(config) as server:
        server.wait()
