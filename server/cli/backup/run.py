"""`coffer backup run`: make a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.backup.places import keys_at, snapshots_at
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.server.backup.run import Done

_FINDINGS = 1


@click.command(
    epilog="""\b
Examples:
  coffer backup run                                  to the targets in the configuration
  coffer backup run /mnt/backup --keys /mnt/vault    first the keyring, then what the target lacks of the log
  coffer backup run /mnt/backup --no-keys            you copy the keyring yourself
  coffer backup run --limit 20                       at most 20 MB a second

\b
Runs beside a server and needs no key. A snapshot holds all records up to a signed checkpoint; the next run sends only
what is new. If it is interrupted, run it again: what was sent is used. What it sends is read back and verified before
the snapshot counts. Key files, PINs, shares and passwords are never copied: keep them elsewhere.
Exit code 0 for a whole snapshot; 1 if the archive has damage, which the snapshot then has too: run coffer verify.""",
)
@click.argument("target", required=False)
@click.option("--keys", metavar="TARGET", help="Where the copy of the keyring goes.")
@click.option("--no-keys", is_flag=True, help="Do not copy the keyring.")
@click.option("--limit", metavar="MB/S", type=click.FloatRange(0.01), help="Most megabytes a second.")
@archive_options()
@json_option
@click.pass_obj
def run(chosen: Chosen, target: str | None, keys: str | None, no_keys: bool, limit: float | None) -> None:
    """Make a snapshot of the archive at TARGET."""
    config = chosen.existing(Action.BACKUP).config
    from pathlib import Path

    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.store.segment_store import total_bytes
    from coffer.server.backup.parts import Host
    from coffer.server.backup.run import Backup, read_recipients
    from coffer.server.backup.targets import Paced

    if keys and no_keys:
        raise click.UsageError("--keys and --no-keys contradict each other")
    folder = ArchiveFolder.open(config.archive)
    to, vault = snapshots_at(config, target), keys_at(config, keys, no_keys=no_keys)
    rate = (limit or config.backup.limit_mb) * 1e6
    recipients = () if config.backup.recipients == Path() else read_recipients(config.backup.recipients)
    total = total_bytes(folder.segment_store())
    with output.progress("backing up", hidden=chosen.json, in_bytes=True) as bar:
        done = Backup(
            Host(folder, config, chosen.locations()[0]),
            Paced(to, rate) if rate else to,
            Paced(vault, rate) if rate and vault is not None else vault,
            recipients,
            lambda count: bar.advance(count, total),
        ).run()
    _report(chosen, done, to.name)
    if done.findings:
        click.get_current_context().exit(_FINDINGS)


def _report(chosen: Chosen, done: Done, where: str) -> None:
    made, copy = done.snapshot, done.keyring
    if chosen.json:
        output.as_json(
            {
                "snapshot": made.id,
                "records": made.size,
                "root": made.root.hex(),
                "bytes": made.total_bytes,
                "uploaded": done.uploaded,
                "reused": done.reused,
                "keyring": None if copy is None else {"bytes": copy.size, "recipients": list(copy.recipients)},
                "findings": [each.what for each in done.findings],
            }
        )
        return
    output.say(f"snapshot {made.id}: {made.size:,} records, {output.size(made.total_bytes)}, at {output.plain(where)}")
    output.say(f"sent {output.size(done.uploaded)}; {output.size(done.reused)} were there already")
    if copy is None:
        output.warn("the keyring was not copied", "copy it yourself: without it nothing in the snapshot can be opened")
    else:
        to = f"sealed to {', '.join(copy.recipients)}" if copy.recipients else "its keys wrapped as in the archive"
        output.say(f"keyring: {output.size(copy.size)}, {to}")
    for each in done.findings:
        output.say(output.plain(f"finding: {each.what}"))
