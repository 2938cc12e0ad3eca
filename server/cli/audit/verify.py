"""`coffer audit verify`: whether every record of the audit trail is there and opens."""

from __future__ import annotations

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option, unaudited_option


@click.command(
    epilog="""\b
Examples:
  coffer audit verify
  coffer audit verify --json | jq .entries

\b
Opens every record under the audit key, in the order of the log, whose chain is checked as it is read. That nothing was
cut off or put back is what coffer verify says, from signatures and the mark outside the folder: the trail stands in the
archive's own log. Exit code 3 for a record that was altered."""
)
@unaudited_option
@archive_options()
@json_option
@click.pass_obj
def verify(chosen: Chosen, unaudited: str | None) -> None:
    """Check that every record of the audit trail is there and opens."""
    admitted = chosen.existing(Action.READ_AUDIT)
    with admitted.open_reading(may_lag=True, unaudited=unaudited) as archive:
        from coffer.archive.tree.checkpoint import read_checkpoint
        from coffer.server.services.auditing import Wanted, entries

        size = read_checkpoint(archive.folder).size
        facts = {"entries": 0, "records": 0, "not yet signed": 0, "waiting in the keyring": 0}
        last = None
        for each in entries(archive, admitted.principal, Wanted()):
            facts["entries"] += 1
            if each.seq is None:
                facts["waiting in the keyring"] += 1
            elif each.seq != last:
                facts["records"] += 1
                facts["not yet signed"] += each.seq >= size
                last = each.seq
    if chosen.json:
        output.as_json({name.replace(" ", "_"): value for name, value in facts.items()})
    else:
        output.facts({name: str(value) for name, value in facts.items()})
