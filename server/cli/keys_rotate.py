"""`coffer keys rotate`: a new key over everything, without touching an object."""

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
    from keys.keyring import Keyring
    from server.custody import provider_of

    started = time.monotonic()
    folder = ArchiveFolder.open(config.archive)
    keyring = Keyring.open(folder.keyring, provider_of(config.keys, folder.archive_id, kind or ""))
    try:
        with output.progress("moving keys", hidden=chosen.json) as bar:
            done = keyring.rotate(bar.advance)
    finally:
        keyring.close()
    seconds = round(time.monotonic() - started, 1)
    if chosen.json:
        told = {"epoch": done.epoch, "provider": done.provider, "moved": done.rewrapped, "resumed": done.resumed}
        output.as_json({**told, "seconds": seconds})
        return
    how = "Went on with a rotation that had been stopped. " if done.resumed else ""
    output.say(f"{how}Epoch {done.epoch} ({done.provider}) is current; {done.rewrapped} study keys moved, {seconds} s.")
    output.say(
        "Now copy what the provider keeps again (a key file has changed), and split new shares: old ones are stale."
    )
    output.say("An old copy of keyring and key file together still opens what was stored before.")
