"""`coffer keys`: what keys the archive has; never the keys themselves."""

import click

from server.cli import output
from server.cli.keys_rotate import destroy, rotate
from server.cli.keys_shares import drill, recover, split
from server.cli.options import Chosen, archive_options, json_option


@click.group()
def keys() -> None:
    """Look at the archive's keys, renew them, divide them among people, and bring them back."""


for _command in (rotate, destroy, split, recover, drill):
    keys.add_command(_command)


@keys.command(
    "list",
    epilog="""\b
Examples:
  coffer keys list
  coffer keys list --json""",
)
@archive_options()
@json_option
@click.pass_obj
def list_epochs(chosen: Chosen) -> None:
    """List the key epochs: number, provider, state, age, how many study keys hang under each, and its shares."""
    with chosen.open() as engine:
        epochs = list(engine.keyring.epochs())
        groups = engine.keyring.share_groups()
        current = engine.keyring.epoch
    rows = [
        {
            "epoch": e.epoch,
            "provider": e.provider,
            "state": e.state.name.lower(),
            "created": output.when(e.created_ms),
            "study_keys": e.rows,
            "shares": [f"{g.threshold} of {g.count}, group {g.group.hex()}" for g in groups if g.epoch == e.epoch],
        }
        for e in epochs
    ]
    if chosen.json:
        output.as_json(rows)
    else:
        shown = ([", ".join(v) if isinstance(v, list) else str(v) for v in row.values()] for row in rows)
        output.table(list(rows[0]) if rows else ["epoch"], shown)
        if groups and all(g.epoch != current for g in groups):
            output.say(f"The shares are stale: none gives the key of epoch {current}. Split again: coffer keys split")
