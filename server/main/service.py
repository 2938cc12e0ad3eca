"""The running server: the archive opened as its one writer, the DICOM listener and the HTTP pages, from start to stop.

Rule: HTTP answers first and last, so that a probe sees why the server is not ready; requests under way are finished
before the archive is closed. It interprets no message: the listener does.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from coffer.archive.body.allocator import keep_objects
from coffer.archive.repair import planted
from coffer.keys.clock import clock_ms
from coffer.keys.errors import CofferError, ServiceError, UnavailableError
from coffer.keys.memory import hardening
from coffer.server.config.settings import Config
from coffer.server.dimse.listener import Listener
from coffer.server.engine.stats import ArchiveStats
from coffer.server.host import headroom
from coffer.server.host.signals import EndOrdered, Signals
from coffer.server.host.watched import Watched
from coffer.server.keyops.epoch_watch import RenewalWatch
from coffer.server.keyops.provider_watch import KeyWatch
from coffer.server.keyops.rekey_watch import RekeyWatch
from coffer.server.mailbox import sign_order
from coffer.server.maintenance.scrub_watch import Scrubbing
from coffer.server.observe import logs
from coffer.server.observe.collectors import Vitals
from coffer.server.observe.metrics import Metrics
from coffer.server.services.engine import Engine
from coffer.server.web.http import HttpServer, application
from coffer.server.workers.supervisor import Lanes

__all__ = ["Server", "serve"]

_log = structlog.get_logger(__name__)

_CHECKPOINT_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 0.5
_AGAIN_SECONDS: Final = 5.0  # after a checkpoint that was ordered and could not be signed
_GRACE_SECONDS: Final = 7.0  # for operations under way: with all that follows a server ends within 10
_END: Final = ""


class _Watch(Protocol):
    """A thread of the service that does its own work beside the others."""

    @property
    def watched(self) -> Watched: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def concerns(self) -> list[str]: ...


class Server:
    """A context manager that serves from enter to exit. `wait` blocks until `stop`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._metrics = Metrics()
        self._orders: SimpleQueue[str] = SimpleQueue()  # to end, or the name of a signal that is ignored
        self._state = "starting"
        self._unguarded: set[str] = set()  # what was told
        self._unsigned = ""  # why the last checkpoint was not signed
        self._unfinished = ""  # why a change of the keys waits
        self._unsettled = ""  # what went wrong in the last round
        self._engine: Engine | None = None
        self._lanes: Lanes | None = None
        self._listener: Listener | None = None
        self._watches: list[_Watch] = []
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

    def open(self) -> None:
        """Open the archive and listen. Raises what Engine.open raises, ConfigError for an address that is taken."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """As `open`."""
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        config = self._config
        # An association takes two in a lane, one here; what they need beside is in the rest.
        headroom.raise_limit(2 * config.dimse.max_associations + 256)
        self._metrics.attach_vitals(self._vitals)
        if config.http.enabled:
            self._http.start()
        _log.info("opening", archive=str(config.archive))
        self._lanes = lanes = Lanes(config)
        self._engine = engine = Engine.open(
            config, write=True, metrics=self._metrics, may_refuse=True, waiting=self._wait_for_keys
        )
        self._state = "starting"
        for what in planted.concerns(engine.folder):
            _log.warning("the archive folder holds what is not Coffer's", cause=what)
        self._tell_unguarded()
        self._begin(KeyWatch(engine.keyring, engine.committer, self._metrics, config.keys.check_seconds))
        self._metrics.attach(self._facts)
        lanes.start(engine)
        self._listener = Listener(config, lanes, self._metrics)
        self._listener.start()
        self._begin(RekeyWatch(engine))
        self._begin(RenewalWatch(engine, self._metrics))
        if config.storage.scrub_days:
            self._begin(Scrubbing(engine, self._metrics, config.storage.scrub_days))
        keep_objects()
        self._state = ""
        _log.info("serving", ae_title=config.dimse.ae_title, host=config.dimse.host, port=config.dimse.port)

    def _begin(self, watch: _Watch) -> None:
        self._watches.append(watch)
        watch.start()

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
        told = [watched.trouble() for watched in self._needed()]
        told += self._listener.reasons() if self._listener is not None else []
        told += self._lanes.reasons() if self._lanes is not None else []
        try:
            self._engine.committer.require_accepting()
        except CofferError as error:
            told.append(str(error))
        return [each for each in told if each]

    def concerns(self) -> list[str]:
        """What a human should look at although the server does its work."""
        told = self._engine.concerns() if self._engine is not None else []
        told += planted.concerns(self._engine.folder) if self._engine is not None else []
        told += [self._unsigned, self._unfinished, self._unsettled]
        if self._engine is not None and not self._engine.index.is_loaded:
            told.append("the index is being read: objects are stored, queries wait")
        if logs.is_losing():
            told.append(f"the log cannot be written: {logs.lost()} lines are lost")
        told += self._lanes.concerns() if self._lanes is not None else []
        for watch in list(self._watches):
            told += [watch.watched.trouble(), *watch.concerns()]
        return [each for each in told if each]

    def _needed(self) -> list[Watched]:
        """The threads without which nothing can be stored, found or seen."""
        needed = [self._http.watched] if self._http.watched is not None else []
        if self._listener is not None:
            needed.append(self._listener.watched)
        if self._lanes is not None and self._lanes.desk is not None:
            needed.append(self._lanes.desk.watched)
        return needed

    def _vitals(self) -> Vitals:
        """How the process itself is, for the metrics."""
        lanes, listener = self._lanes, self._listener
        watched = self._needed() + [watch.watched for watch in list(self._watches)]
        restarts = {each.name: each.deaths for each in watched}
        short, lost = set(), logs.lost()
        if lanes is not None:
            restarts["a receiving process"] = lanes.deaths
            short, lost = lanes.short_of(), lost + lanes.lost_lines()
        if listener is not None:
            short.add(listener.short_of())
        return Vitals(lost, restarts, {kind: kind in short for kind in headroom.KINDS})

    def wait(self) -> None:
        """Block until `stop`, signing checkpoints and doing what is left to do with keys meanwhile.

        After a checkpoint that was ordered the next one is a minute away too: time to copy what must fit together.
        Raises ServiceError where a part of the server that it needs died and does not come back.
        """
        signed = time.monotonic()
        while not self._is_told_to_end():
            self._require_whole()
            try:
                self._settle()
                is_due = not self._unsigned or time.monotonic() - signed >= _AGAIN_SECONDS
                if (is_due and self._is_asked_to_sign()) or time.monotonic() - signed >= _CHECKPOINT_SECONDS:
                    signed = time.monotonic()
                    self._sign()
                    self._tell_unguarded()
                self._unsettled = ""
            except Exception as error:  # noqa: BLE001  # short of descriptors or memory: the next round may do
                self._tell_unsettled(error)

    def _is_told_to_end(self) -> bool:
        try:
            order = self._orders.get(timeout=_SETTLE_SECONDS)
        except Empty:
            return False
        if order != _END:
            _log.info("a signal is ignored", signal=order, way_out="a change of coffer.toml needs a restart")
        return order == _END

    def _require_whole(self) -> None:
        for watched in self._needed():
            if watched.is_lost():
                raise ServiceError(
                    f"the server ends, because a part of it does not come back: {watched.trouble()}",
                    hint="start it again; the log says what happened",
                )

    def _tell_unsettled(self, error: Exception) -> None:
        what = headroom.what_ran_out(error)
        told = f"keys and checkpoints wait: {f'short of {what}' if what else type(error).__name__}"
        if told != self._unsettled:
            _log.error("keys and checkpoints were not looked after", exc_info=error)
        self._unsettled = told

    def _settle(self) -> None:
        """Do what commands in other processes began with the keys."""
        try:
            self.engine.log.require_stable()
        except CofferError:
            return  # told by readyz; the next opening does it
        try:
            self.engine.look_at_keys()
            self.engine.settle()
            self._unfinished = ""
        except CofferError as error:
            told = f"a change of keys is not finished: {error}"
            if told != self._unfinished:  # it is tried twice a second
                _log.error("a change of keys is not finished", cause=str(error), way_out=error.hint())
            self._unfinished = told

    def _tell_unguarded(self) -> None:
        """Tell once what the system refused to do for keys in memory."""
        for what, way_out in hardening.refusals().items():
            if what not in self._unguarded:
                self._unguarded.add(what)
                _log.warning("keys are less guarded than they could be", cause=what, way_out=way_out)

    def _is_asked_to_sign(self) -> bool:
        try:
            return sign_order.is_waited_for(self.engine.keyring, clock_ms())
        except CofferError:
            return False  # a keyring that cannot be read is told of by whoever needs a key

    def _sign(self) -> None:
        """Sign what was stored since the last checkpoint, so that after a crash little of the log is without one."""
        try:
            self.engine.sign_checkpoint()
            self._unsigned = ""
        except CofferError as error:
            told = f"no checkpoint was signed: {error}"
            if told != self._unsigned:
                _log.error("no checkpoint was signed", cause=str(error), way_out=error.hint())
            self._unsigned = told

    def stop(self) -> None:
        """Let `wait` return. May be called from a signal handler."""
        self._orders.put(_END)

    def tell_ignored(self, signal: str) -> None:
        """Let `wait` write that a signal is ignored. May be called from a signal handler."""
        self._orders.put(signal)

    def close(self) -> None:
        """Finish what is under way, then close everything. Harmless when repeated."""
        self._state = "stopping"
        with ExitStack() as last_first:  # whatever fails in one part, the others are closed
            last_first.callback(self._http.stop)
            last_first.callback(self._close_engine)
            last_first.callback(self._metrics.attach, None)
            watches, self._watches = self._watches, []
            for watch in watches:
                last_first.callback(watch.stop)
            if self._lanes is not None:
                last_first.callback(self._lanes.stop, _GRACE_SECONDS)
            if self._listener is not None:
                _log.info("stopping")
                last_first.callback(self._listener.stop)
            self._lanes = self._listener = None

    def _close_engine(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.close()
            _log.info("stopped")


def serve(config: Config, signals: Signals) -> None:
    """Serve until SIGTERM or Ctrl-C, which may also come while the archive is opened; it is closed on return.

    Raises what starting raises, and ServiceError.
    """
    logs.configure(config.log)
    logs.run_in_background()
    run(Server(config), Server.wait, signals)


def run(server: Server, work: Callable[[Server], None], signals: Signals) -> None:
    """Open a server, do `work` with it and close it, with nothing of that cut short by a signal. Raises as `serve`.

    The first order to end that comes while it is opened ends that at once, which is as safe as a power cut.
    """
    signals.notify(server.stop, server.tell_ignored)
    try:
        with signals.interrupting():
            server.open()
        work(server)
    except EndOrdered:
        _log.info("ended while opening, as ordered")
    finally:
        server.close()
