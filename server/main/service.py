"""The running server, put together and taken apart: the archive opened as its one writer, doors, workers and jobs.

Rule: HTTP answers first and last, so that a probe sees why the server is not ready; requests under way are finished
before the archive is closed. It interprets no message and does no work of its own: the doors and the jobs do.
"""

import os
import socket
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from coffer.archive.body.allocator import keep_objects
from coffer.archive.codec.choice import REMEDY, why_pure
from coffer.archive.repair import planted
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import require_free
from coffer.keys.errors import CofferError, ConfigError, UnavailableError
from coffer.server.access.certificate import PeerCertificate
from coffer.server.access.decision import policy_of
from coffer.server.access.users_file import read_users
from coffer.server.clock.clock_job import ClockJob
from coffer.server.config.settings import Config
from coffer.server.dimse.listener import Listener
from coffer.server.dimse.protocol.negotiation import CONGESTED
from coffer.server.dimse.refusal import refuse_at_once
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.opening import open_for_service
from coffer.server.engine.stats import ArchiveStats
from coffer.server.host import headroom
from coffer.server.host.control import ControlSocket
from coffer.server.host.job import Jobs
from coffer.server.host.orders import Orders
from coffer.server.host.service_manager import NOBODY, ServiceManager
from coffer.server.identity.admission import Admission, Connected
from coffer.server.identity.tokens import read_tokens
from coffer.server.keyops.epoch_job import EpochJob
from coffer.server.keyops.provider_job import ProviderJob
from coffer.server.keyops.rekey_job import RekeyJob
from coffer.server.keyops.settlement_job import SettlementJob
from coffer.server.mailbox.users_record import record_users
from coffer.server.main.condition import condition_of, vitals_of
from coffer.server.main.exposure import exposed, require_covered
from coffer.server.main.known_peers import KnownPeersJob
from coffer.server.maintenance.index_job import IndexJob
from coffer.server.maintenance.scrub_job import ScrubJob
from coffer.server.observe import logs
from coffer.server.observe.collectors import Vitals
from coffer.server.observe.condition import Condition, ConditionCollector
from coffer.server.observe.metrics import Metrics
from coffer.server.services.bundle import WriterServices
from coffer.server.tls.gatekeeper import Gatekeeper, is_used
from coffer.server.tls.report import TlsCollector
from coffer.server.tls.report import concerns as tls_concerns
from coffer.server.web.http import HttpServer, application
from coffer.server.workers.supervisor import Workers

__all__ = ["Server"]

_log = logs.get_logger()

_RELOAD_SECONDS: Final = 20.0
_GRACE_SECONDS: Final = 7.0  # for operations under way: with all that follows a server ends within 10


class Server:
    """A context manager that serves from enter to exit, once. `wait` blocks until `stop`."""

    def __init__(self, config: Config, *, insecure_open_role: bool = False, manager: ServiceManager = NOBODY) -> None:
        """`insecure_open_role` lets it listen on the network although there are no users; `manager` is told how the
        server is doing."""
        self._config = config
        self._manager = manager
        self._insecure_open_role = insecure_open_role
        self._exposed: list[str] = []
        self._metrics = Metrics()
        users = read_users(config.access.users)
        self._admission = Admission(
            users, policy_of(config, users.directory), read_tokens(config), self._metrics.identity_failed
        )
        self._users = users.directory
        self._orders = Orders()
        self._state = "starting"
        self._is_open = False
        self._services: WriterServices | None = None
        self._jobs = Jobs()
        self._settlement: SettlementJob | None = None
        pages = application(self.reasons, self._metrics.render, self._admission, self.concerns)
        self._known = KnownPeersJob(config, lambda: self._users)
        self._http = HttpServer(config.http, pages, self._known.is_stranger, self._metrics.limited)
        self._keeper = Gatekeeper(config, {"dimse": self._admit, "http": self._http.admit}) if is_used(config) else None
        self._workers = Workers(config, self._keeper.outlet if self._keeper else None)
        self._listener = Listener(config, self._workers, self._metrics, self._known.is_stranger)
        self._metrics.registry.register(TlsCollector(self._keeper))
        self._metrics.registry.register(ConditionCollector(self._condition))
        orders = {
            "reload": self._reload, "store": self._require_storing, "signed": self._require_signing, "sign": self._sign
        }  # fmt: skip
        self._control = ControlSocket(config.archive, orders)
        self._last_first = ExitStack()  # closes each part, last first; harmless for one that was never started

    @property
    def services(self) -> WriterServices:
        """The open archive and the services over it."""
        assert self._services is not None, "the server is not started"
        return self._services

    @property
    def http_address(self) -> tuple[str, int]:
        """Where health and metrics are served."""
        return self._http.address

    def open(self) -> None:
        """Open the archive and listen. Raises as `open_for_service`, and ConfigError for an address in use, or for one
        that others reach while there are no users."""
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
        # Before a port is found in use: two servers of one archive mostly have one configuration, too.
        require_free(ArchiveFolder.open(config.archive).lock)
        self._look_at_users()
        # An association takes two descriptors in a worker and one here; 256 cover everything else.
        headroom.raise_limit(2 * config.dimse.max_associations + 256)
        self._metrics.attach_vitals(self._vitals)
        self._look_at_codec()
        self._listen_early()
        _log.info("the archive is being opened", name="server.opening", archive=str(config.archive))
        self._manager.status("opening the archive")
        self._workers.launch()
        archive = open_for_service(config, self._metrics, self._wait_for_keys)
        self._services = services = WriterServices.of(archive)
        self._state = "starting"
        for what in planted.concerns(archive.folder):
            _log.warning(
                "the archive folder contains something that is not Coffer's", name="archive.foreign_found", cause=what
            )
        self._begin(archive, services)
        keep_objects()
        self._state = ""
        self._manager.ready()
        self._tell_status()
        _log.info(
            "serving",
            name="server.serving",
            ae_title=config.dimse.ae_title,
            host=config.dimse.host,
            port=config.dimse.port,
            tls_port=config.dimse.tls_port,
        )

    def _listen_early(self) -> None:
        """What answers while the archive is opened; and in which order all is closed."""
        config, last_first = self._config, self._last_first
        last_first.callback(self._http.stop)
        if self._keeper is not None:
            last_first.callback(self._keeper.stop)
        last_first.callback(self._close_archive)
        last_first.callback(self._metrics.attach, None)
        last_first.callback(self._jobs.stop)
        last_first.callback(self._workers.stop, _GRACE_SECONDS)
        if config.http.enabled:
            self._http.start()
            self._jobs.need(self._http.watched)
        if self._keeper is not None:  # before the archive is opened: a wrong file shows at once
            self._keeper.listen()
            self._keeper.start()
            self._jobs.need(self._keeper.watched)

    def _begin(self, archive: WritableArchive, services: WriterServices) -> None:
        """Start the jobs, and between them open the doors, each as soon as what it needs is there."""
        config = self._config
        self._jobs.start(self._known)
        self._jobs.start(ProviderJob(archive.keyring, services.committer, self._metrics, config.keys.check_seconds))
        self._metrics.attach(self._facts)
        archive.require_users()
        archive.expect_check()
        self._jobs.start(IndexJob(archive, self._metrics, config.storage.scrub_days))
        self._record_users(archive)
        self._open_doors(services)
        self._control.start()
        self._last_first.callback(self._control.stop)
        self._jobs.start(RekeyJob(services))
        self._jobs.start(EpochJob(archive, self._metrics))
        if config.storage.scrub_days:
            self._jobs.start(ScrubJob(archive, self._metrics, config.storage.scrub_days))
        self._jobs.start(ClockJob(archive.keyring, self._metrics, lambda: archive.last_record_ms))
        self._settlement = SettlementJob(archive)
        self._jobs.start(self._settlement)

    def _look_at_codec(self) -> None:
        slow = why_pure()
        self._metrics.codec_is(compiled=not slow)
        if slow:
            _log.warning("pixels are coded more slowly", name="codec.not_compiled", cause=slow, remedy=REMEDY)

    def _look_at_users(self) -> None:
        """Refuse to be reached by everybody in the open role, unless that was ordered; then say so."""
        is_open = self._users.is_open
        self._metrics.open_role(is_open)
        if is_open and not self._insecure_open_role:
            require_covered(self._config)
        self._exposed = exposed(self._config) if is_open else []
        if self._exposed:
            _log.warning(
                "everybody who reaches this server may do everything: there are no users",
                name="access.open_role",
                exposed=self._exposed,
                remedy="coffer users add",
            )

    def _record_users(self, archive: WritableArchive) -> None:
        """Leave the hash of the users for the log, durable on return: a removed user who comes back is seen. Without
        users there is something to record only if the network was let in all the same."""
        if not self._users.is_open or self._exposed:
            record_users(archive.keyring, self._users)

    def _open_doors(self, services: WriterServices) -> None:
        self._jobs.need(self._workers.start(services, self._admission))
        self._last_first.callback(self._listener.stop)
        if self._keeper is not None:
            self._last_first.callback(self._keeper.shut, "dimse")
        self._last_first.callback(lambda: _log.info("stopping", name="server.stopping"))
        self._listener.start()
        self._is_open = True
        self._jobs.need(self._listener.watched)

    def _admit(self, connection: socket.socket, host: str, certificate: PeerCertificate | None) -> None:
        """A DICOM caller with TLS; one that comes before the archive is open is told to come again."""
        if self._is_open:
            self._listener.admit(connection, Connected(host, certificate, is_encrypted=True))
        else:
            refuse_at_once(connection, CONGESTED)

    def _sign(self) -> None:
        """Sign what is stored now, for a backup that is about to begin. Raises as `sign_checkpoint`."""
        self.services.archive.sign_checkpoint()

    def _require_storing(self) -> None:
        """Return if objects are stored now. Raises the error of what stopped, which `coffer status` shows."""
        if self._services is not None:
            self._services.committer.require_accepting()

    def _require_signing(self) -> None:
        """Return if the last checkpoint that was due was signed. Raises why not, which `coffer status` shows."""
        job = self._settlement
        if job is not None and job.unsigned is not None:
            raise job.unsigned.with_traceback(None)

    def _reload(self) -> None:
        """Read users, keys of tokens and TLS files again. Raises ConfigError if any is not usable, UnavailableError:
        then what could not be read stays as it was."""
        self._manager.reloading()
        try:
            self._reload_users()
            if self._keeper is not None:
                self._keeper.reload(_RELOAD_SECONDS)
        finally:
            self._manager.ready()

    def _reload_users(self) -> None:
        """Judge by the users as they are now: a user who was removed is denied from the next request on."""
        stored, tokens, archive = (
            read_users(self._config.access.users),
            read_tokens(self._config),
            self.services.archive,
        )
        users = stored.directory
        if users.is_open and not self._users.is_open:
            raise ConfigError(
                "the file of users is gone: those that were read before stay in force",
                hint="put it back; without users this server has to be started anew",
            )
        policy = policy_of(self._config, users)
        archive.policy = policy
        self._admission.use(stored, policy, tokens)
        self._workers.use(users)
        is_new, self._users = users.sha256 != self._users.sha256, users
        self._exposed = self._exposed if users.is_open else []
        self._metrics.open_role(users.is_open)
        if is_new:
            self._record_users(archive)
            _log.info("the users were read again", name="identity.reloaded", users=len(users.users))

    def _facts(self) -> ArchiveStats:
        """The archive's gauges. Raises UnavailableError until the index is loaded."""
        if not self.services.archive.index.is_loaded:
            raise UnavailableError("the index is being read", hint="wait")
        return self.services.archive.stats()

    def _wait_for_keys(self, error: UnavailableError, seconds: float) -> None:
        self._state = f"waiting for the key provider, {seconds:.0f} s more: {error}"
        self._manager.status(self._state)
        _log.warning(
            "waiting for the key provider",
            name="provider.awaited",
            cause=str(error),
            remedy=error.hint(),
            gives_up_in_seconds=round(seconds),
        )

    def reasons(self) -> list[str]:
        """Why the server cannot do its work now; empty when it can."""
        if self._state or self._services is None:
            return [self._state or "starting"]
        reasons = [*self._jobs.reasons(), *self._listener.reasons(), *self._workers.reasons()]
        reasons += self._keeper.reasons() if self._keeper is not None else []
        try:
            self._services.committer.require_accepting()
        except CofferError as error:
            reasons.append(str(error))
        return reasons

    def concerns(self) -> list[str]:
        """What an operator should look at although the server works."""
        archive = self._services.archive if self._services is not None else None
        concerns: list[str] = []
        if self._exposed:
            concerns.append(
                f"there are no users: everybody on the network may do everything ({', '.join(self._exposed)})"
            )
        concerns += self._users.concerns()
        if archive is not None:
            concerns += [*archive.concerns(), *planted.concerns(archive.folder)]
            if not archive.is_checked:
                concerns.append("the index is being checked: objects are stored, queries are answered with busy")
        if logs.is_losing():
            concerns.append(f"the log cannot be written: {logs.lost()} lines are lost")
        tls = tls_concerns(self._keeper) if self._keeper is not None else []
        return [*concerns, *tls, *self._workers.concerns(), *self._jobs.concerns()]

    def _condition(self) -> Condition:
        """How the server is, for the metrics."""
        tls = self._keeper.pids() if self._keeper is not None else []
        processes = {"committing": [os.getpid()], "receiving": self._workers.pids(), "tls": tls}
        return condition_of(self._config, self._services, processes, is_ready=not self.reasons())

    def _vitals(self) -> Vitals:
        """The state of the process itself, for the metrics."""
        return vitals_of(self._jobs, self._workers, self._listener, self._keeper, self._services)

    def wait(self) -> None:
        """Block until `stop`. Raises ServiceError if a part that the server needs died and cannot be restarted."""
        self._orders.wait_for_end(self._look)

    def _look(self) -> None:
        """Let nobody believe that a server works which does not: end if a needed part is lost, else tell how it is."""
        self._jobs.require_whole()
        self._manager.alive(self._jobs.silent_seconds)
        self._tell_status()

    def _tell_status(self) -> None:
        if not self._manager.listens:
            return
        reasons = self.reasons()
        self._manager.status(f"not ready: {'; '.join(reasons)}" if reasons else "serving")

    def stop(self) -> None:
        """Let `wait` return. May be called from a signal handler."""
        self._orders.end()

    def report_ignored(self, signal: str) -> None:
        """Let `wait` log that a signal is ignored. May be called from a signal handler."""
        self._orders.ignore(signal)

    def close(self) -> None:
        """Finish what is under way, then close every part, even if one fails. Harmless when repeated."""
        self._state = "draining: requests under way are finished, nobody new is let in"
        self._manager.stopping()
        self._manager.status(self._state)
        self._last_first.close()
        self._manager.close()

    def _close_archive(self) -> None:
        if self._services is not None:
            services, self._services = self._services, None
            services.archive.close()
            _log.info("stopped", name="server.stopped")
