"""`coffer mark`: the high-water mark outside the archive folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option, officer_option

if TYPE_CHECKING:
    from coffer.archive.tree.mark import Mark

_DEGRADED = 1


@click.group()
def mark() -> None:
    """Show or make anew the mark, outside the folder, of what the archive had reached."""


@mark.command(
    epilog="""\b
Examples:
  coffer mark show
  coffer mark show --json | jq -r .vkey

\b
Needs no key and works beside a server. Exit code 1 if there is no mark that protects the archive."""
)
@archive_options()
@json_option
@click.pass_obj
def show(chosen: Chosen) -> None:
    """Show where the mark lies, what it names, and what is wrong with it."""
    config = chosen.existing(Action.INSPECT).config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.server.anchor.mark_file import MarkFile

    file = MarkFile.of(config, ArchiveFolder.open(config.archive).archive_id)
    concerns, found = file.concerns(), file.find()
    if chosen.json:
        output.as_json({"mark": str(file.path), **_facts(found), "degraded": concerns})
    else:
        told = {name: "none" if value is None else str(value) for name, value in _facts(found).items()}
        output.facts({"mark": str(file.path), **told, **({"degraded": "; ".join(concerns)} if concerns else {})})
    if concerns:
        click.get_current_context().exit(_DEGRADED)


@mark.command(
    epilog="""\b
Examples:
  coffer mark renew --reason "the disk of the mark was replaced; recover show agrees"

\b
For a mark that is missing, was moved to another disk, or names more than the archive has. First make sure that this is
the newest archive: from here on its state counts as the newest. The log gets a record of it before the mark is made.
Needs the key file; stop the server first. Records that are missing come from a backup: coffer recover from."""
)
@click.option("--reason", required=True, help="Why; it is recorded.")
@officer_option
@archive_options()
@json_option
@click.pass_obj
def renew(chosen: Chosen, reason: str, officer: str | None) -> None:
    """Make the mark anew, of the archive as it is now, and record who decided that."""
    admitted = chosen.existing(Action.RENEW_MARK, officer)
    if not reason.strip():
        raise click.UsageError("--reason is empty")
    with admitted.open_past_mark() as archive:
        archive.renew_mark(reason, admitted.principal.officer)
        file = archive.mark
    concerns, made = file.concerns(), file.find()
    if chosen.json:
        output.as_json({"mark": str(file.path), **_facts(made), "degraded": concerns})
        return
    output.say(f"mark made  {file.path}")
    for concern in concerns:
        output.warn(concern, "name a place on another disk there, then: coffer mark renew --reason TEXT")


def _facts(found: Mark | None) -> dict[str, str | int | None]:
    if found is None:
        return {"records": None, "root": None, "vkey": None, "keyring_generation": None, "epoch": None, "lineage": None}
    return {
        "records": found.size,
        "root": found.root.hex(),
        "vkey": found.vkey,
        "keyring_generation": found.keyring_generation,
        "epoch": found.epoch,
        "lineage": found.lineage.hex(),
    }
