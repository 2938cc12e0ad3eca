"""`coffer keys rekey`: new keys for studies whose key may be compromised, with all their objects sealed again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from coffer.keys.errors import WriterGoneError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, confirm, json_option

if TYPE_CHECKING:
    from coffer.keys.keyring.rekey import Rekey
    from coffer.server.engine.archive import KeyAdminArchive


@click.command(
    epilog="""\b
Examples:
  coffer keys rekey 1.2.840.99999.1 --reason 'DEK seen in a core dump' --yes
  coffer keys rekey --all-before 3 --reason 'old key file and keyring copied' --yes
  coffer keys rekey --all-before 3 --reason 'old key file and keyring copied' --yes --json

\b
--all-before N selects every study whose key was made before epoch N began: rotate first, then give the new epoch.
Needs as much free space as the studies take: the log only grows. Works beside a running server, which does the work
while it stores and sends. If it is interrupted at any point, everything still opens, and the server, or the same
command run again, resumes it. Exit code 5: no such study; 9: it was shredded; 10: it is on hold; 3: an object is
damaged, and its study keeps its key until it is repaired.
An old copy of the keyring that can be opened still opens the old records: coffer shred finish ends that. Neither a
rekey nor a rotation changes the archive's own key, which protects index tokens, events and notes."""
)
@click.argument("study", required=False)
@click.option("--all-before", "epoch", type=click.IntRange(min=2), metavar="EPOCH", help="All studies with older keys.")
@click.option("--reason", required=True, metavar="TEXT", help="Why. It is kept for good: write no name into it.")
@click.option("--officer", metavar="NAME", help="Who orders it.  [default: the account]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@archive_options()
@json_option
@click.pass_obj
def rekey(chosen: Chosen, study: str | None, epoch: int | None, reason: str, officer: str | None, *, yes: bool) -> None:
    """Give studies new keys, seal their objects again, and destroy the old keys."""
    if (study is None) == (epoch is None):
        raise click.UsageError("give one study, or --all-before EPOCH")
    started = time.monotonic()
    admitted = chosen.existing(Action.REKEY, officer)
    with admitted.change_keys() as archive:
        from coffer.server.keyops.rekey_order import all_before, carry_out, one_study, order

        found = one_study(archive, study) if study is not None else all_before(archive, epoch or 0)
        question = f"Seal {found.objects} objects of {found.studies} studies again under new keys?"
        confirm(question, yes=yes or not found.names)
        begun = order(archive, found, reason, admitted.principal)
        is_left = _is_left(chosen, archive, begun)
    if is_left:  # the process that was to do it has ended
        with admitted.change_keys() as archive, output.progress("sealing again", hidden=chosen.json) as bar:
            carry_out(archive, begun, bar.reach)
    seconds = round(time.monotonic() - started, 1)
    if chosen.json:
        counts = {"studies": found.studies, "objects": found.objects, "held": found.held}
        output.as_json({**counts, "seconds": seconds, "new_keys": [each.new.hex() for each in begun]})
        return
    output.say(
        f"{found.studies} studies with {found.objects} instances have new keys; the old ones are destroyed here."
    )
    if found.held:
        output.say(f"{found.held} studies are on hold and keep their keys: coffer hold list")
    if not begun:
        return
    output.say(
        "Back up the log and the keyring again: with today's keyring, older copies of the log lack these studies."
    )
    output.say("The old records stay in the log, sealed under the old keys. They can still be read with:")
    output.say("  - an old key and any copy of the log, for good: recall such copies;")
    output.say("  - an old copy of the keyring and what opened it, until its epoch is destroyed:")
    output.say("    coffer shred finish, then coffer shred finish --destroy; then back up keyring and key file.")
    output.say(
        "A rekey or rotation does not change the archive's own key. Anyone who ever opened a keyring of this archive"
    )
    output.say("still has it: it opens index tokens, events, and notes of holds and requests, but no image.")


def _is_left(chosen: Chosen, archive: KeyAdminArchive, begun: list[Rekey]) -> bool:
    """Carry it out, or wait until the process that writes has. Returns whether that process ended before it had."""
    from coffer.server.keyops.rekey_order import carry_out

    try:
        with output.progress("sealing again", hidden=chosen.json) as bar:
            carry_out(archive, begun, bar.reach)
    except WriterGoneError:
        return True
    return False
