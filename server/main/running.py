"""A server run to its end: by `coffer serve`, and by whoever has work to do beside it."""

from collections.abc import Callable

from coffer.server.config.settings import Config
from coffer.server.host.service_manager import ServiceManager
from coffer.server.host.signals import EndOrdered, Signals
from coffer.server.main.service import Server
from coffer.server.observe import logs

__all__ = ["run", "serve"]

_log = logs.get_logger()


def serve(config: Config, signals: Signals, *, insecure_open_role: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C, which may also come while the archive is opened; it is closed on return.
    `insecure_open_role` as in `Server`.

    Raises the same errors as `Server.open`, and ServiceError.
    """
    logs.configure(config.log)
    logs.run_in_background()
    run(Server(config, insecure_open_role=insecure_open_role, manager=ServiceManager.of()), Server.wait, signals)


def run(server: Server, work: Callable[[Server], None], signals: Signals) -> None:
    """Open a server, do `work` with it and close it; no signal cuts this short. Raises the same errors as `serve`.

    The first signal to end that arrives while it is being opened stops that at once, which is as safe as a power cut.
    """
    signals.notify(server.stop, server.report_ignored)
    try:
        with signals.interrupting():
            server.open()
        work(server)
    except EndOrdered:
        _log.info("stopped by a signal while opening", name="server.opening_stopped")
    finally:
        server.close()
