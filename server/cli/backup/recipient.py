"""`coffer backup recipient`: identities that open sealed copies of the keyring."""

from __future__ import annotations

from pathlib import Path

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option


@click.group()
def recipient() -> None:
    """Make identities that open sealed copies of the keyring, and show their public keys."""


@recipient.command(
    epilog="""\b
Examples:
  coffer backup recipient new /media/officer/meyer.identity
  cat meyer.identity.pub schmidt.identity.pub > /etc/coffer/recipients    then: [backup] recipients

\b
FILE is the identity: whoever has it opens every copy of the keyring that is sealed to it. Make it on the officer's own
medium, copy it once, and keep it off this machine. FILE.pub is its public key. X-Wing: ML-KEM-768 with X25519.""",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@archive_options()
@json_option
@click.pass_obj
def new(chosen: Chosen, file: Path) -> None:
    """Write a new identity to FILE, and its public key to FILE.pub."""
    chosen.admit(Action.MAKE_RECIPIENT)
    from coffer.keys.crypto.recipient import Identity
    from coffer.keys.disk.durable import write_new

    made = Identity.new()
    public = file.with_name(f"{file.name}.pub")
    write_new(file, made.text().encode())
    write_new(public, made.recipient().text().encode(), 0o644)
    if chosen.json:
        output.as_json({"identity": str(file), "public": str(public), "recipient": made.recipient().id})
        return
    output.say(f"identity    {file}   keep it off this machine, and a copy of it in a safe")
    output.say(f"public key  {public}   add its line to the file that [backup] recipients names")
    output.say(f"recipient   {made.recipient().id}")


@recipient.command(
    epilog="""\b
Examples:
  coffer backup recipient show meyer.identity.pub
  coffer backup recipient show /etc/coffer/recipients --json"""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@archive_options()
@json_option
@click.pass_obj
def show(chosen: Chosen, file: Path) -> None:
    """Show the ids of the public keys in FILE, as `coffer backup list` prints them."""
    chosen.admit(Action.INSPECT)
    from coffer.server.backup.run import read_recipients

    ids = [each.id for each in read_recipients(file)]
    if chosen.json:
        output.as_json(ids)
    else:
        for each in ids:
            output.say(each)
