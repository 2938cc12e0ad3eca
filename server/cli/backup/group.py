"""`coffer backup`: snapshots of the archive at other places."""

import click

from coffer.server.cli.backup.drill import drill
from coffer.server.cli.backup.listing import listing
from coffer.server.cli.backup.prune import prune
from coffer.server.cli.backup.recipient import recipient
from coffer.server.cli.backup.run import run
from coffer.server.cli.backup.verify import verify


@click.group()
def backup() -> None:
    """Keep snapshots of the archive, and copies of its keyring, at other places. Opens no key."""


for _command in (run, listing, verify, prune, drill, recipient):
    backup.add_command(_command)
