"""`coffer shred list` and `finish`: how far each erasure is, and what makes it effective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.erasure import doomed_parts
from coffer.server.cli.options import Chosen, archive_options, json_option, officer_option

if TYPE_CHECKING:
    from coffer.server.erasure.approvals import Request
    from coffer.server.erasure.finish import Finished

_NO_RECEIPT = 6


@click.command(
    epilog="""\b
Examples:
  coffer shred finish               moves all living keys to a new epoch
  coffer shred finish --destroy     then destroys all that ever opened the old epochs

\b
First destroyed, then copied: until the second step the key file holds the very secret that is to be destroyed, and a
copy of it would open every older copy of the keyring. Copy keyring and key file right after the second step; before
it, `coffer keys split` makes a copy of the new epoch's key that holds nothing of the old ones. Works beside a running
server. Exit code 6 where something gave no receipt, or the writer cannot be reached: it is named, and saying the same
again asks for it again; 7 where somebody else changes the keys."""
)
@click.option("--destroy", is_flag=True, help="Destroy all that ever opened the old epochs. It cannot be undone.")
@click.option("--early", is_flag=True, help="Do not wait for the days of backups: older ones open nothing then.")
@officer_option
@archive_options()
@json_option
@click.pass_obj
def finish(chosen: Chosen, destroy: bool, early: bool, officer: str | None) -> None:
    """Make scheduled shreds effective: move the living keys to a new epoch, then destroy the old epochs."""
    admitted = chosen.existing(Action.FINISH_SHRED, officer)
    with admitted.open_for_keys() as archive:
        from coffer.server.erasure.finish import finish as next_step

        title = "ending old epochs" if destroy else "moving keys"
        with output.progress(title, hidden=chosen.json) as bar:
            done = next_step(archive, admitted.principal, destroy=destroy, early=early, progress=bar.reach)
        epoch = archive.keyring.epoch
    if chosen.json:
        output.as_json(
            {
                "epoch": epoch,
                "moved": done.moved,
                "destroyed": done.destroyed,
                "still_to_destroy": done.caveats,
                "no_receipt": done.missing,
                "to_be_destroyed": done.waiting,
                "opened_by": done.opened_by,
                "effective": done.effective,
                "scheduled": len(done.erasures) - done.effective,
                "index_written_anew": done.is_index_new,
            }
        )
        _exit(done)
        return
    if done.moved:
        output.say(f"{done.moved} keys are under epoch {epoch} now")
    for caveat in done.caveats:
        output.say(output.plain(f"destroyed, {caveat}"))
    for missing in done.missing:
        output.say(output.plain(f"NOT destroyed, {missing}"))
    if done.waiting:
        output.say("copy nothing yet: what opens the archive still holds what is to be destroyed. Next:")
        output.say("  coffer shred finish --destroy")
    elif done.destroyed:
        output.say(
            "now copy the keyring and what opens it (key file, HSM backup, new shares), and destroy older copies"
        )
    for what in done.opened_by if destroy else ():
        output.say(output.plain(f"it can still be opened by {what}"))
    if not done.is_index_new:
        output.say(
            "the index still holds keyed hashes of shredded studies; the process that writes tries again: its log"
        )
    output.say(f"{done.effective} shreds are effective, {len(done.erasures) - done.effective} are scheduled")
    _exit(done)


def _exit(done: Finished) -> None:
    """End with the exit code of a provider that cannot be reached, where anything gave no receipt."""
    if done.missing:
        click.get_current_context().exit(_NO_RECEIPT)


@click.command(
    "list",
    epilog="""\b
Examples:
  coffer shred list
  coffer shred list --json | jq '.shreds[] | select(.state != "effective")'

\b
Works beside a running server. Keys are named by their ids: what a shredded study was, nothing here knows any more.""",
)
@archive_options()
@json_option
@click.pass_obj
def list_shreds(chosen: Chosen) -> None:
    """List the requests that wait and every key that was shredded or replaced, with its state."""
    with chosen.existing(Action.INSPECT).open_reading() as archive:
        from coffer.server.engine.erasure_state import erasures
        from coffer.server.erasure.approvals import waiting_requests

        requests = [_request_row(request_id, one) for request_id, one in waiting_requests(archive)]
        shreds = [
            {
                "study_key": each.key_id.hex(),
                "why": each.tombstone.reason.name.lower(),
                "state": each.state,
                "scheduled": output.when(each.tombstone.scheduled_ms),
                "backups_until": output.when(each.tombstone.until_ms),
                "epochs_to_destroy": list(each.open_epochs),
                "opened_by": list(each.opened_by),
            }
            for each in erasures(archive.keyring)
        ]
    if chosen.json:
        output.as_json({"requests": requests, "shreds": shreds})
        return
    if requests:
        output.table(list(requests[0]), ([str(v) for v in row.values()] for row in requests))
        output.say()
    columns = ["study_key", "why", "state", "scheduled", "backups_until", "epochs_to_destroy"]
    output.table(columns, ([_text(row[name]) for name in columns] for row in shreds))
    for what in dict.fromkeys(what for row in shreds for what in row["opened_by"]):
        output.say(output.plain(f"what was shredded can still be opened by {what}"))


def _request_row(request_id: str, one: Request) -> dict[str, Any]:
    return {
        "request": request_id,
        "studies": doomed_parts.studies(one.doomed),
        "requested": output.when(one.requested_ms),
        "officers": ", ".join(map(str, one.officers)),
        "reason": one.reason,
    }


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
