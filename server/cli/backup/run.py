"""`coffer backup run`: make a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.backup.places import keys_at, snapshots_at
from coffer.server.cli.options import Admitted, Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.server.backup.left_out import LeftOut
    from coffer.server.backup.run import Done
    from coffer.server.config.settings import Config

_FINDINGS = 1
_PATIENCE_SECONDS = 15  # for a writer that is no server: a backup does not wait for its end


@click.command(
    epilog="""\b
Examples:
  coffer backup run                                  to the targets in the configuration
  coffer backup run /mnt/backup --keys /mnt/vault    first the keyring, then what the target lacks of the log
  coffer backup run /mnt/backup --no-keys            you copy the keyring yourself
  coffer backup run --limit 20                       at most 20 MB a second

\b
Runs beside a server and needs no key. A snapshot ends at a signed checkpoint: if something was stored since the last
one, the server is asked to sign it; without a server it is signed here, which needs the key; without that the command
says what is left out. The next run sends only what is new. If it is interrupted, run it again: what was sent is used.
What it sends is read back and verified before the snapshot counts. Key files, PINs, shares and passwords are never
copied: keep them elsewhere.
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
    admitted = chosen.existing(Action.BACKUP)
    config = admitted.config
    from pathlib import Path

    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.store.segment_store import total_bytes
    from coffer.server.backup.left_out import left_out
    from coffer.server.backup.parts import Host
    from coffer.server.backup.run import Backup, read_recipients
    from coffer.server.backup.targets import Paced

    if keys and no_keys:
        raise click.UsageError("--keys and --no-keys contradict each other")
    folder = ArchiveFolder.open(config.archive)
    _require_newest(config, folder)
    to, vault = snapshots_at(config, target), keys_at(config, keys, no_keys=no_keys)
    rate = (limit or config.backup.limit_mb) * 1e6
    recipients = () if config.backup.recipients == Path() else read_recipients(config.backup.recipients)
    unsigned = _sign(admitted, folder)
    total = total_bytes(folder.segment_store())
    with output.progress("backing up", hidden=chosen.json, in_bytes=True) as bar:
        done = Backup(
            Host(folder, config, chosen.locations()[0]),
            Paced(to, rate) if rate else to,
            Paced(vault, rate) if rate and vault is not None else vault,
            recipients,
            lambda count: bar.advance(count, total),
        ).run()
    left = left_out(folder, done.snapshot.size, done.snapshot.made_ms)
    _report(chosen, done, to.name, left, unsigned)
    if done.findings:
        click.get_current_context().exit(_FINDINGS)


def _require_newest(config: Config, folder: ArchiveFolder) -> None:
    """Raise HistoryError for an archive that is older than its mark, if there is one: its snapshot would count as the
    newest, and good ones be removed for it."""
    from coffer.archive.tree.checkpoint import read_checkpoint
    from coffer.keys.errors import HistoryError
    from coffer.server.anchor.mark_file import MarkFile
    from coffer.server.maintenance.offline import objection_of

    mark = MarkFile.of(config, folder.archive_id).find()
    found = objection_of(mark, folder)
    if found is None and mark is not None and (size := read_checkpoint(folder).size) < mark.checkpoint.size:
        found = HistoryError(
            f"{size} records are signed here, but the mark outside the folder names {mark.checkpoint.size}: "
            "an older copy of the archive was put back, or its log was cut",
            hint="coffer recover show lists what is missing and the remedies",
        )
    if found is not None:
        raise found


def _sign(admitted: Admitted, folder: ArchiveFolder) -> str:
    """Have signed what was stored since the last checkpoint, so that it is in the snapshot. Returns why it was not."""
    from coffer.archive.tree.checkpoint import read_checkpoint
    from coffer.keys.clock import clock_ms
    from coffer.keys.errors import CofferError, UnavailableError
    from coffer.server.backup.left_out import left_out
    from coffer.server.cli.integrity.checkpoint import sign_now
    from coffer.server.host.control import give_order

    try:
        if left_out(folder, read_checkpoint(folder).size, clock_ms()):
            try:
                give_order(admitted.config.archive, "sign")
            except UnavailableError:  # no server, or one of another account
                sign_now(admitted, folder, _PATIENCE_SECONDS)
    except CofferError as error:  # the backup of what is signed is worth having
        return str(error)
    return ""


def _report(chosen: Chosen, done: Done, where: str, left: LeftOut | None, unsigned: str) -> None:
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
                "left_out": None
                if left is None
                else {"records": left.records, "since_ms": left.since_ms, "why": unsigned},
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
    if left is not None:
        output.warn(
            f"{left.records:,} records, the first stored at {output.when(left.since_ms)}, are in no checkpoint yet and "
            f"were left out{f': {unsigned}' if unsigned else ''}",
            "a running server signs every minute; or run coffer checkpoint sign with the key, then the backup again",
        )
    for each in done.findings:
        output.say(output.plain(f"finding: {each.what}"))
