"""`coffer checkpoint`: signed statements of what the log contains."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import LockedError, WriterGoneError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.integrity.proof import check, folder_of, prove_consistency, prove_inclusion, signed_note
from coffer.server.cli.options import Admitted, Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.store.folder import ArchiveFolder


@click.group()
def checkpoint() -> None:
    """Sign the contents of the log, and prove that it contains a record and that nothing was changed since."""


@checkpoint.command(
    epilog="""\b
Examples:
  coffer checkpoint show
  coffer checkpoint show --json | jq -r .note > kept.note

\b
Needs no key and works beside a server. Keep notes where the archive's administrators cannot change them: anyone who has
one can prove later whether the log still begins with the records it covers."""
)
@archive_options()
@json_option
@click.pass_obj
def show(chosen: Chosen) -> None:
    """Show the last signed checkpoint, its verifier key, and how many there are."""
    folder = folder_of(chosen.existing(Action.INSPECT))
    from coffer.archive.reader import LogReader
    from coffer.archive.tree.checkpoint import open_checkpoint
    from coffer.archive.tree.checkpoint_history import read_entries
    from coffer.archive.tree.key_history import read_key_history
    from coffer.server.maintenance.offline import inspect_keyring

    note = signed_note(folder)
    signed, noted = open_checkpoint(note, folder), sum(1 for _ in read_entries(folder))
    reader, remembered = LogReader(folder), inspect_keyring(folder).remembered
    unsigned, keys = sum(1 for _ in reader.records(signed.size)), read_key_history(folder)
    reader.close()
    shown: dict[str, Any] = {
        "origin": signed.origin,
        "records": signed.size,
        "unsigned_records": unsigned,
        "root": base64.b64encode(signed.root).decode(),
        "verifier_key": folder.vkey,
        "signing_key": keys.current,
        "generation": len(keys.vkeys),
        "checkpoints": noted,
        "keyring_records": remembered.size if remembered else None,
        "note": note.decode(),
    }
    if chosen.json:
        output.as_json(shown)
        return
    output.facts(
        {
            "origin": signed.origin,
            "records": f"{signed.size}, and {unsigned} since",
            "root": shown["root"],
            "verifier key": folder.vkey,
            **({"signed now by": f"key {len(keys.vkeys)}, {keys.current}"} if keys.endorsements else {}),
            "signed before": f"{max(noted - 1, 0)} checkpoints, all in {folder.checkpoint_history}",
            "keyring": f"remembers {remembered.size} records" if remembered else "none",
        }
    )


@checkpoint.command(
    epilog="""\b
Examples:
  coffer checkpoint sign
  coffer checkpoint sign --json | jq -r .note > before-the-audit.note

\b
A running server signs by itself: every minute in which something was stored, and when it stops. This command makes it
sign at once and waits until it has: run it before you take a snapshot or a copy of the archive."""
)
@archive_options()
@json_option
@click.pass_obj
def sign(chosen: Chosen) -> None:
    """Sign the log as it is now, after a check that it extends the last checkpoint. Needs the key file."""
    admitted = chosen.existing(Action.SIGN)
    folder = folder_of(admitted)
    from coffer.archive.tree.checkpoint import latest_note, open_checkpoint

    before = latest_note(folder)
    sign_now(admitted, folder)
    note = signed_note(folder)
    signed = open_checkpoint(note, folder)
    if chosen.json:
        output.as_json({"records": signed.size, "signed": note != before, "note": note.decode()})
    elif note == before:
        output.say(f"nothing was added: the last checkpoint covers all {signed.size} records")
    else:
        output.say(f"signed: {signed.size} records, root {base64.b64encode(signed.root).decode()}")


for _command in (prove_inclusion, prove_consistency, check):
    checkpoint.add_command(_command)


def sign_now(admitted: Admitted, folder: ArchiveFolder, patience_seconds: float = 60) -> None:
    """Sign everything stored before the call: here, or by the process that writes the archive, which gets so many
    seconds. Durable on return. Raises as `open_writer` and `sign_order.ask`; LockedError if writers came and went."""
    if _signed_here(admitted) or _signed_by_the_writer(admitted, folder, patience_seconds) or _signed_here(admitted):
        return
    raise LockedError("another process has just opened the archive", hint="run the command again")


def _signed_here(admitted: Admitted) -> bool:
    """Sign in this process; False if another process has the archive open for writing."""
    try:
        with admitted.open_writer() as archive:
            archive.sign_checkpoint()
    except LockedError:
        return False
    return True


def _signed_by_the_writer(admitted: Admitted, folder: ArchiveFolder, patience_seconds: float) -> bool:
    """Have the process that writes the archive sign, and wait until it has; False if it ended before.

    Raises UnavailableError if it does not sign.
    """
    from coffer.server.engine.providers import open_keyring, provider_of
    from coffer.server.mailbox import sign_order

    keyring = open_keyring(folder, provider_of(admitted.config.keys, folder.archive_id))
    try:
        sign_order.ask(keyring, folder, patience_seconds)
    except WriterGoneError:
        return False
    finally:
        keyring.close()
    return True
