"""`coffer backup list`: which snapshots there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import ConfigError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.copies.shelf import Unusable
    from coffer.archive.copies.snapshot import Snapshot


@click.command(
    "list",
    epilog="""\b
Examples:
  coffer backup list
  coffer backup list /mnt/backup --keys /mnt/vault    also on a machine that has nothing but Coffer
  coffer backup list --json | jq -r '.snapshots[-1].snapshot'

\b
Needs no key and no archive. It believes what the target says of itself: coffer backup verify proves it.""",
)
@click.argument("target", required=False)
@click.option("--keys", metavar="TARGET", help="Where copies of the keyring are.")
@archive_options()
@json_option
@click.pass_obj
def listing(chosen: Chosen, target: str | None, keys: str | None) -> None:
    """List the snapshots at TARGET, and the copies of the keyring."""
    config = chosen.admit(Action.INSPECT).config
    from coffer.archive.copies.shelf import Shelf, archives_at
    from coffer.server.backup.copies import copies_made, kept_days
    from coffer.server.backup.targets import open_target
    from coffer.server.cli.backup.places import NONE

    place, vault = target or config.backup.target, keys or config.backup.keys
    if not place:
        raise ConfigError("no target was given", hint="name one, or set it in the configuration: [backup] target")
    at = open_target(place)
    found = [(archive, one) for archive in archives_at(at) for one in Shelf(at, archive).snapshots()]
    days = kept_days(config)
    copies = []
    if vault and vault != NONE:
        safe = open_target(vault)
        archives = {archive for archive, _ in found}
        copies = [(archive, copy) for archive in sorted(archives) for copy in copies_made([safe], archive, days)]
    if chosen.json:
        rows = [_row(archive, one) for archive, one in found]
        kept = [
            {
                "snapshot": copy.id, "archive": archive.hex(), "made": output.when(copy.made_ms),
                "until": output.when(copy.until_ms), "records": copy.held.records, "recipients": list(copy.recipients),
            }
            for archive, copy in copies
        ]  # fmt: skip
        output.as_json({"snapshots": rows, "keyrings": kept})
        return
    output.table(("snapshot", "records", "size", "keyring", "state"), (_line(one) for _, one in found))
    if copies:
        output.say("\ncopies of the keyring:")
        output.table(
            ("snapshot", "records", "kept until", "sealed to"),
            (
                (c.id, f"{c.held.records:,}", output.when(c.until_ms), ", ".join(c.recipients) or "nobody")
                for _, c in copies
            ),
        )


def _row(archive: bytes, one: Snapshot | Unusable) -> dict[str, Any]:
    from coffer.archive.copies.snapshot import Snapshot

    row: dict[str, Any] = {"snapshot": one.id, "archive": archive.hex()}
    if not isinstance(one, Snapshot):
        return {**row, "unusable": one.why}
    facts = {"made": output.when(one.made_ms), "records": one.size, "root": one.root.hex(), "bytes": one.total_bytes}
    return {**row, **facts, "keyring": one.keyring, "findings": one.findings}


def _line(one: Snapshot | Unusable) -> tuple[str, str, str, str, str]:
    from coffer.archive.copies.snapshot import Snapshot

    if not isinstance(one, Snapshot):
        return one.id, "", "", "", output.plain(one.why)
    state = f"{one.findings} findings" if one.findings else "whole"
    return one.id, f"{one.size:,}", output.size(one.total_bytes), "copied" if one.keyring else "not copied", state
