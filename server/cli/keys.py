"""`coffer keys`: what keys the archive has; never the keys themselves."""

import click

from server.cli import output
from server.cli.keys_audit import audit
from server.cli.keys_rekey import rekey
from server.cli.keys_rotate import destroy, rotate
from server.cli.keys_shares import drill, recover, split
from server.cli.options import Chosen, archive_options, json_option


@click.group()
def keys() -> None:
    """Look at the archive's keys, renew them, divide them among people, and bring them back."""


for _command in (rotate, rekey, destroy, audit, split, recover, drill):
    keys.add_command(_command)


@keys.command(
    "list",
    epilog="""\b
Examples:
  coffer keys list
  coffer keys list --json

\b
Needs no key: it tells where the keys are when nothing opens them.""",
)
@archive_options()
@json_option
@click.pass_obj
def list_epochs(chosen: Chosen) -> None:
    """List the key epochs: number, provider, state, age, how many study keys hang under each, and its shares."""
    config = chosen.existing()
    from archive.folder import ArchiveFolder
    from keys.overview import overview

    seen = overview(ArchiveFolder.open(config.archive).keyring)
    rows = [
        {
            "epoch": e.epoch,
            "provider": e.provider,
            "state": e.state.name.lower(),
            "created": output.when(e.created_ms),
            "study_keys": e.rows,
            "shares": [f"{g.threshold} of {g.count}, group {g.group.hex()}" for g in seen.groups if g.epoch == e.epoch],
        }
        for e in seen.epochs
    ]
    if chosen.json:
        output.as_json(rows)
    else:
        shown = ([", ".join(v) if isinstance(v, list) else str(v) for v in row.values()] for row in rows)
        output.table(list(rows[0]) if rows else ["epoch"], shown)
        if seen.groups and all(g.epoch != seen.current for g in seen.groups):
            output.say(
                f"The shares are stale: none gives the key of epoch {seen.current}. Split again: coffer keys split"
            )
