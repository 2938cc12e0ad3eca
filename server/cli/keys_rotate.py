"""`coffer keys rotate` and `destroy`: a new key over everything, objects untouched, and the end of an old one."""

from __future__ import annotations

import time

import click

from server.cli import output
from server.cli.options import Chosen, archive_options, json_option


@click.command(
    epilog="""\b
Examples:
  coffer keys rotate
  coffer keys rotate --json

\b
Works beside a running server, while it stores and sends. Interrupted at any point, everything still opens;
run it again and it goes on where it stopped. To move to another provider (HSM, AWS KMS), configure it as
[keys] provider first, or name it with --provider; leave the old one configured too, and rotate.
Exit code 7: another rotation runs."""
)
@click.option(
    "--provider",
    "kind",
    type=click.Choice(["file", "pkcs11", "aws-kms"]),
    help="Who keeps the new epoch's secret, default as configured.",
)
@archive_options()
@json_option
@click.pass_obj
def rotate(chosen: Chosen, kind: str | None) -> None:
    """Make a new key epoch and move every study's key under it; objects stay as they are."""
    config = chosen.existing()
    from archive.folder import ArchiveFolder
    from keys.overview import overview
    from server.renewal import rotate as run

    started = time.monotonic()
    with output.progress("moving keys", hidden=chosen.json) as bar:
        done = run(config, bar.advance, kind or "")
    seconds = round(time.monotonic() - started, 1)
    stale = [g for g in overview(ArchiveFolder.open(config.archive).keyring).groups if g.epoch != done.epoch]
    if chosen.json:
        told = {"epoch": done.epoch, "provider": done.provider, "moved": done.rewrapped, "resumed": done.resumed}
        output.as_json({**told, "seconds": seconds, "stale_shares": [g.group.hex() for g in stale]})
        return
    how = "Went on with a rotation that had been stopped. " if done.resumed else ""
    output.say(f"{how}Epoch {done.epoch} ({done.provider}) is current; {done.rewrapped} study keys moved, {seconds} s.")
    output.say("Now copy what the provider keeps again: a key file has changed.")
    for group in stale:
        output.say(
            f"Stale now, collect and burn: {group.count} shares of group {group.group.hex()}. Then: coffer keys split"
            f" -n {group.count} -k {group.threshold}"
        )
    output.say("An old copy of keyring and key file together still opens what was stored before.")


@click.command(
    epilog="""\b
Examples:
  coffer keys destroy 1 --yes
  coffer keys destroy 1 --yes --json

\b
After it no copy of the keyring from before the rotation opens anything, whoever has it: this is what makes
erasures (`coffer shred`) effective, and what ends the use of old backups of keyring and key file. It cannot be
undone. Refused (exit code 11) for the current epoch and while study keys are under it. Interrupted, run it again."""
)
@click.argument("epoch", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="Do not ask.")
@archive_options()
@json_option
@click.pass_obj
def destroy(chosen: Chosen, epoch: int, *, yes: bool) -> None:
    """Destroy the secret of an old key epoch for ever."""
    config = chosen.existing()
    from server.renewal import destroy as run

    if not yes:
        click.confirm(
            f"Destroy the secret of epoch {epoch}? Old backups of the keyring open nothing after it", abort=True
        )
    receipt = run(config, epoch)
    if chosen.json:
        output.as_json({"epoch": epoch, "provider": receipt.kind, "still_to_do": receipt.caveat})
        return
    output.say(f"Epoch {epoch} is destroyed ({receipt.kind}).")
    output.say(f"Still to do: {receipt.caveat}.")
