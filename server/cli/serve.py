"""`coffer serve`: the DICOM service and the health and metrics pages, until a signal ends them."""

import click

from server.cli.options import Chosen, archive_options


@click.command(
    epilog="""\b
Examples:
  coffer serve
  coffer --config /etc/coffer.toml serve

\b
It logs to standard error, ends on SIGTERM or Ctrl-C after the requests that are under way, and holds
the archive's one writer's lock. find, get, verify and status work beside it; put and index rebuild do not."""
)
@archive_options()
@click.pass_obj
def serve(chosen: Chosen) -> None:
    """Serve DICOM (C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET) and, over HTTP, health and metrics."""
    from server.service import serve as run

    run(chosen.load())
