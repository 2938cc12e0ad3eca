"""`coffer demo`: what `make run` does: store, find, retrieve and verify a sample study, with a line for each step."""

import click

from coffer.server.access.action import Action
from coffer.server.cli.options import Chosen, archive_options


@click.command(
    epilog="""\b
Examples:
  coffer demo              then serves until Ctrl-C
  coffer demo --once       then stops"""
)
@click.option("--once", is_flag=True, help="Stop after the demonstration instead of continuing to serve.")
@archive_options()
@click.pass_obj
def demo(chosen: Chosen, once: bool) -> None:
    """Create an archive if there is none, store a sample study over the network, find it, retrieve it, verify."""
    from coffer.server.main.demo import run

    chosen.admit(Action.CREATE)  # it may create an archive
    run(chosen.admit(Action.SERVE).config, once=once)
