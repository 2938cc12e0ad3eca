"""`coffer backup prune`: remove snapshots and copies of the keyring that are no longer wanted."""

from __future__ import annotations

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.backup.places import NONE, snapshots_at
from coffer.server.cli.options import Chosen, archive_options, json_option


@click.command(
    epilog="""\b
Examples:
  coffer backup prune --dry-run     what would go and what would stay
  coffer backup prune               by the rules in the configuration: [backup] keep_last, keep_daily, minimum ...

\b
Needs no key. What a remaining snapshot needs is never removed. Pieces that nothing needs any more are written down, and
removed by a prune at least 20 hours later. It does not run while a backup does. Copies of the keyring go when their
days are over ([backup] keep_keys_days), all but the newest.""",
)
@click.argument("target", required=False)
@click.option("--keys", metavar="TARGET", help="Where copies of the keyring are.")
@click.option("--dry-run", is_flag=True, help="Show it, and remove nothing.")
@archive_options()
@json_option
@click.pass_obj
def prune(chosen: Chosen, target: str | None, keys: str | None, dry_run: bool) -> None:
    """Remove old snapshots at TARGET, and old copies of the keyring."""
    config = chosen.existing(Action.PRUNE).config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.server.backup.pruning import Pruning
    from coffer.server.backup.targets import open_target

    vault = keys or config.backup.keys
    work = Pruning(
        config,
        ArchiveFolder.open(config.archive).archive_id,
        snapshots_at(config, target),
        open_target(vault) if vault and vault != NONE else None,
    )
    if dry_run:
        planned, old = work.plan()
        if chosen.json:
            output.as_json({"stay": list(planned.stay), "go": list(planned.go), "keyrings": list(old)})
            return
        for each in planned.stay:
            output.say(f"stays  {each}")
        for each in planned.go:
            output.say(f"goes   {each}")
        for each in old:
            output.say(f"goes   {each}, the copy of the keyring")
        return
    done, old = work.run()
    if chosen.json:
        facts = {"snapshots": list(done.snapshots), "pieces": done.pieces, "bytes": done.bytes, "waiting": done.waiting}
        output.as_json({**facts, "keyrings": list(old)})
        return
    output.say(f"{len(done.snapshots)} snapshots and {len(old)} copies of the keyring removed")
    output.say(f"{done.pieces} pieces removed, {output.size(done.bytes)}; {done.waiting} wait for a later prune")
