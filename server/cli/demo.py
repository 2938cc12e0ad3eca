"""`coffer demo`: what `make run` does: the whole way of a study, once, in front of your eyes."""

import click

from coffer.server.access.action import Action
from coffer.server.cli.options import Chosen, archive_options


@click.command(
    epilog="""\b
Examples:
  coffer demo              then serves until Ctrl-C
  coffer demo --once       then ends"""
)
@click.option("--once", is_flag=True, help="End after the demonstration instead of serving on.")
@archive_options()
@click.pass_obj
def demo(chosen: Chosen, once: bool) -> None:
    """Make an archive if there is none, store a sample study over the network, find it, get it back, verify."""
    from coffer.server.main.demo import run

    chosen.admit(Action.CREATE)  # it may make an archive
    run(chosen.admit(Action.SERVE).config, once=once)
