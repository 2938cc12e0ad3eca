"""`coffer serve`: the DICOM service and the health and metrics pages, until a signal stops them."""

import click

from coffer.server.access.action import Action
from coffer.server.cli.options import Chosen, archive_options


@click.command(
    epilog="""\b
Examples:
  coffer serve
  coffer --config /etc/coffer.toml serve

\b
While there are no users, everybody who reaches the server may do everything. Therefore it refuses to listen on anything
but loopback then: add users first (coffer users add --help), or give --insecure-open-role on a test network.

\b
It logs to standard error and holds the archive's writer lock. SIGTERM or Ctrl-C stops it after the requests under
way (exit code 0, also while it is still opening the archive; a second signal changes nothing). SIGHUP stops it the
same way if it was started from a terminal, and is ignored otherwise; a changed coffer.toml needs a restart. Exit code
15: a part of it died and could not be restarted; start it again. find, get, verify and status work beside it; put and
index rebuild do not. It tells systemd when it serves, what keeps it from serving, and that it is not stuck
(Type=notify, WatchdogSec=)."""
)
@click.option(
    "--insecure-open-role", is_flag=True, help="Listen on the network although there are no users, for a test network."
)
@archive_options()
@click.pass_obj
def serve(chosen: Chosen, insecure_open_role: bool) -> None:
    """Serve DICOM (C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET) and, over HTTP, health and metrics."""
    from coffer.server.host.signals import EndOrdered, Signals

    with Signals() as signals:
        try:
            with signals.interrupting():
                from coffer.server.main.running import serve as run

                config = chosen.existing(Action.SERVE).config
        except EndOrdered:
            return
        run(config, signals, insecure_open_role=insecure_open_role)
