"""`coffer backup verify`: read a snapshot, every byte of it, and prove it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coffer.keys.errors import ConfigError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.integrity.verify import UNANCHORED
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.server.backup.checking import Checked

_FINDINGS = 1


@click.command(
    epilog="""\b
Examples:
  coffer backup verify                       the newest snapshot at the configured target
  coffer backup verify --all                 all of them: what is shared is read once for each
  coffer backup verify 20261201t020000z-0123456789ab /mnt/backup --vkey "$(cat vkey.txt)"

\b
Needs no key. Every piece is compared with its hash, and the log with its chain and signatures. Whether it is your
archive only a verifier key from outside proves: --vkey, [integrity] vkey or the mark. Exit code 0 if it is whole, 1
with findings, 17 if there is nothing from outside to compare with.""",
)
@click.argument("snapshot", default="latest")
@click.argument("target", required=False)
@click.option("--all", "every", is_flag=True, help="Verify every snapshot.")
@click.option("--keys", metavar="TARGET", help="Where copies of the keyring are: they are read, too.")
@click.option("--vkey", metavar="KEY", default="", help="A verifier key of the archive that you kept elsewhere.")
@archive_options()
@json_option
@click.pass_obj
def verify(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen, snapshot: str, target: str | None, every: bool, keys: str | None, vkey: str
) -> None:
    """Verify SNAPSHOT at TARGET: everything that it holds, from the target alone."""
    config = chosen.admit(Action.VERIFY).config
    from coffer.archive.copies.shelf import find_snapshot
    from coffer.server.backup.checking import check_snapshot
    from coffer.server.backup.targets import open_target
    from coffer.server.cli.backup.places import NONE

    place, vault = target or config.backup.target, keys or config.backup.keys
    if not place:
        raise ConfigError("no target was given", hint="name one, or set it in the configuration: [backup] target")
    at = open_target(place)
    safe = open_target(vault) if vault and vault != NONE else None
    shelf, newest = find_snapshot(at, snapshot)
    ids = shelf.ids() if every else [newest.id]
    results = []
    for each in ids:
        with output.progress(f"verifying {each}", hidden=chosen.json, in_bytes=True) as bar:
            results.append(check_snapshot(config, shelf, each, keys=safe, vkey=vkey, progress=bar.advance))
    findings = [what for each in results for what in each.findings]
    anchored = all(each.anchored for each in results)
    if chosen.json:
        output.as_json(
            [
                {"snapshot": r.id, "records": r.records, "anchored": r.anchored, "findings": list(r.findings)}
                for r in results
            ]
        )
    else:
        _say(results)
    if findings or not anchored:
        click.get_current_context().exit(_FINDINGS if findings else UNANCHORED)


def _say(results: list[Checked]) -> None:
    for each in results:
        state = f"{len(each.findings)} findings" if each.findings else "whole"
        output.say(f"{each.id}: {each.records:,} records, {state}")
        for what in each.findings:
            output.say(output.plain(f"  {what}"))
    if not all(each.anchored for each in results):
        output.say("consistent with itself; not checked against any key from outside")
