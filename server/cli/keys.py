"""`coffer keys`: what keys the archive has; never the keys themselves."""

import datetime as dt

import click

from server.cli import output
from server.cli.options import Chosen, archive_options, json_option


@click.group()
def keys() -> None:
    """Look at the archive's keys."""


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
    """List the key epochs: number, provider, state, age, and how many study keys hang under each."""
    with chosen.open() as engine:
        epochs = list(engine.keyring.epochs())
        provider = engine.config.keys.provider
    rows = [
        {
            "epoch": e.epoch,
            "provider": str(getattr(e, "provider", provider)),
            "state": str(e.state),
            "created": _when(e.created_ms),
            "study_keys": e.rows,
        }
        for e in epochs
    ]
    if chosen.json:
        output.as_json(rows)
    else:
        output.table(list(rows[0]) if rows else ["epoch"], ([str(v) for v in row.values()] for row in rows))


def _when(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="seconds")
