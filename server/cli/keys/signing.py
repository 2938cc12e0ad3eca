"""`coffer keys rotate-signing` and `export`: another key for checkpoints, and all such keys for verifiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.store.folder import ArchiveFolder


@click.command(
    "rotate-signing",
    epilog="""\b
Examples:
  coffer keys rotate-signing --reason 'yearly'
  coffer keys rotate-signing --reason 'old backup of keyring and key file stolen' --officer Meyer --json

\b
The old key signs one last checkpoint and endorses the new key, which continues from there; then it is destroyed here.
Verifiers with the first verifier key follow these endorsements: nothing has to be distributed again. After a
theft of the old key, distribute the new verifier key all the same (docs/keys.md, "The signing key").
Works beside a running server, which does it within a second. If it is interrupted at any point, everything still
verifies; run it again to resume it. Exit code 6: ordered, but the process that writes has not done it yet; it will.""",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why. It is kept for good: write no name into it.")
@click.option("--officer", metavar="NAME", help="Who orders it.  [default: the account]")
@archive_options()
@json_option
@click.pass_obj
def rotate_signing(chosen: Chosen, reason: str, officer: str | None) -> None:
    """Let a new key sign checkpoints, endorsed by the old one, which is destroyed."""
    admitted = chosen.existing(Action.ROTATE_SIGNING, officer)
    config = admitted.config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.tree.key_history import read_key_history
    from coffer.keys.keyring.overview import overview
    from coffer.server.access.operator import require_reason
    from coffer.server.engine.archive import WritableArchive
    from coffer.server.engine.checkpoint_signer import order, wait_until_rotated

    require_reason("a rotation of the signing key", reason)
    resumed = overview(ArchiveFolder.open(config.archive).keyring).is_signing_key_changing
    with admitted.change_keys(may_lag=True) as archive:  # resumes an interrupted one, if it may write
        if not resumed:
            order(archive.keyring, archive.folder, reason, admitted.principal)
        if isinstance(archive, WritableArchive):
            archive.reconcile()
        else:
            wait_until_rotated(archive.keyring, archive.folder)
        keys = read_key_history(archive.folder)
    made = keys.endorsements[-1]
    if chosen.json:
        result = {"generation": made.generation, "verifier_key": made.new, "old_verifier_key": made.old}
        output.as_json({**result, "from_records": made.size, "resumed": resumed})
        return
    how = "Resumed an interrupted rotation. " if resumed else ""
    output.say(f"{how}Signing key {made.generation} signs from {made.size} records on; the old one is destroyed here.")
    output.say(output.plain(f"verifier key: {made.new}"))
    output.say("Back up the keyring now: older copies can no longer sign. For auditors: coffer keys export --public")


@click.command(
    epilog="""\b
Examples:
  coffer keys export --public
  coffer keys export --public -o hospital-keys.txt
  coffer keys export --public --json

\b
Every verifier key that checkpoints were ever signed with, over how many records, and the endorsements (signed notes)
that lead from each to the next. None of it is secret, and printing it needs no key. What matters is the channel: a
verifier key is only as trustworthy as the channel by which it arrives."""
)
@click.option("--public", is_flag=True, help="The public keys; no others can be exported.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.  [default: standard output]",
)
@archive_options()
@json_option
@click.pass_obj
def export(chosen: Chosen, *, public: bool, out: Path | None) -> None:
    """Print the archive's verifier keys and their endorsements, for checking checkpoints and proofs."""
    config = chosen.existing(Action.PUBLISH_KEYS).config
    from coffer.archive.store.folder import ArchiveFolder

    if not public:
        raise click.UsageError("only public keys are exported: give --public")
    public_keys = signing_keys(ArchiveFolder.open(config.archive))
    text = json.dumps(public_keys, indent=1, ensure_ascii=False) + "\n" if chosen.json else _text(public_keys)
    if out is None:
        output.say(text.removesuffix("\n"))
        return
    output.write_file(out, text.encode())
    if chosen.json:
        output.as_json({"file": str(out), "keys": len(public_keys["keys"])})
    else:
        output.say(output.plain(f"{out}: {len(public_keys['keys'])} verifier keys"))


def signing_keys(folder: ArchiveFolder) -> dict[str, Any]:
    """The archive's signing keys as facts: origin, and for each its generation, verifier key, span and endorsement."""
    from coffer.archive.tree.key_history import read_key_history

    keys = read_key_history(folder)
    rows: list[dict[str, Any]] = []
    for generation, vkey in enumerate(keys.vkeys, 1):
        least, most = keys.span(generation)
        note = keys.notes[generation - 2].decode() if generation > 1 else None
        rows.append(
            {
                "generation": generation,
                "verifier_key": vkey,
                "from_records": least,
                "to_records": most,
                "endorsement": note,
            }
        )
    return {"origin": keys.origin, "keys": rows}


def _text(public_keys: dict[str, Any]) -> str:
    """A page to print or mail: keys first, then the endorsements as they were signed."""
    lines = [f"Verifier keys of {public_keys['origin']}", ""]
    for each in public_keys["keys"]:
        most = "now" if each["to_records"] is None else f"{each['to_records']} records"
        lines += [f"{each['generation']}. signs from {each['from_records']} records to {most}:", each["verifier_key"]]
        lines.append("")
    for each in public_keys["keys"][1:]:
        lines += [f"Endorsement of key {each['generation']}:", "", each["endorsement"]]
    return "\n".join(map(output.plain, "\n".join(lines).rstrip("\n").split("\n"))) + "\n"
