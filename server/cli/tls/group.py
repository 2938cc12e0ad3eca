"""`coffer tls`: certificates for a first try, and what peers see."""

import click

from coffer.server.cli.tls.check import check
from coffer.server.cli.tls.init import init


@click.group()
def tls() -> None:
    """Make certificates for a first try, and show what a peer would see."""


for _command in (init, check):
    tls.add_command(_command)
