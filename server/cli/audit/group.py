"""`coffer audit`: the audit trail, searched, exported and checked."""

import click

from coffer.server.cli.audit.export import export
from coffer.server.cli.audit.search import search, study
from coffer.server.cli.audit.verify import verify


@click.group()
def audit() -> None:
    """Show who did what with which objects, and when. Reading the audit trail is itself recorded."""


for _command in (search, study, export, verify):
    audit.add_command(_command)
