"""`coffer shred list` and `finish`: the state of each erasure, and the steps that make it effective."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.erasure import parts_to_shred
from coffer.server.cli.options import Chosen, archive_options, json_option, officer_option

if TYPE_CHECKING:
    from coffer.server.copies.register import Copy
    from coffer.server.erasure.approvals import ShredRequest
    from coffer.server.erasure.finish import Finished

_NO_RECEIPT = 6  # the exit code of a provider that cannot be reached


@click.command(
    epilog="""\b
Examples:
  coffer shred finish               moves all living keys to a new epoch
  coffer shred finish --destroy     then destroys everything that ever opened the old epochs

\b
Destroy first, then back up: until the second step the key file contains the secret that is to be destroyed, and a copy
of it would open every older copy of the keyring. Back up keyring and key file right after the second step; before it,
`coffer keys split` makes a copy of the new epoch's key without the old ones. Works beside a running server. Exit code
6 if something gave no receipt, which is named, or if the writer cannot be reached: run the command again; 7 if another
process is changing the keys."""
)
@click.option("--destroy", is_flag=True, help="Destroy everything that ever opened the old epochs; irreversible.")
@click.option("--early", is_flag=True, help="Do not wait until backups expire: older ones open nothing afterwards.")
@officer_option
@archive_options()
@json_option
@click.pass_obj
def finish(chosen: Chosen, destroy: bool, early: bool, officer: str | None) -> None:
    """Make scheduled shreds effective: move the living keys to a new epoch, then destroy the old epochs."""
    admitted = chosen.existing(Action.FINISH_SHRED, officer)
    with admitted.change_keys() as archive:
        from coffer.server.erasure.finish import finish as next_step

        title = "ending old epochs" if destroy else "moving keys"
        with output.progress(title, hidden=chosen.json) as bar:
            done = next_step(archive, admitted.principal, destroy=destroy, early=early, progress=bar.reach)
        epoch = archive.keyring.epoch
    if chosen.json:
        output.as_json(_as_json(done, epoch))
    else:
        _say(done, epoch, is_end=destroy)
    if done.missing:
        click.get_current_context().exit(_NO_RECEIPT)


def _as_json(done: Finished, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "moved": done.moved,
        "destroyed": done.destroyed,
        "still_to_destroy": done.caveats,
        "no_receipt": done.missing,
        "to_be_destroyed": done.waiting,
        "opened_by": done.opened_by,
        "copies": [own for own, _ in done.copies],
        "copies_until": _last_end(done.copies),
        "effective": done.effective,
        "scheduled": len(done.erasures) - done.effective,
        "index_written_anew": done.is_index_new,
    }


def _say(done: Finished, epoch: int, *, is_end: bool) -> None:
    if done.moved:
        output.say(f"{done.moved} keys are under epoch {epoch} now")
    for caveat in done.caveats:
        output.say(output.plain(f"destroyed, {caveat}"))
    for missing in done.missing:
        output.say(output.plain(f"NOT destroyed, {missing}"))
    if done.waiting:
        output.say("make no backup yet: what opens the archive still contains the secret to be destroyed. Next:")
        output.say("  coffer shred finish --destroy")
    elif done.destroyed:
        output.say(
            "now back up the keyring and what opens it (key file, HSM backup, new shares), and destroy older copies"
        )
    for line in _of_copies(done.copies):
        output.say(output.plain(line))
    for what in done.opened_by if is_end else ():
        output.say(output.plain(f"it can still be opened by {what}"))
    if not done.is_index_new:
        output.say("the index still contains keyed hashes of shredded studies; the writer tries again, see its log")
    output.say(f"{done.effective} shreds are effective, {len(done.erasures) - done.effective} are scheduled")


@click.command(
    "list",
    epilog="""\b
Examples:
  coffer shred list
  coffer shred list --json | jq '.shreds[] | select(.state != "effective")'

\b
Works beside a running server. Keys are named by their ids: nothing here can tell any more which study was shredded.""",
)
@archive_options()
@json_option
@click.pass_obj
def list_shreds(chosen: Chosen) -> None:
    """List the open requests and every key that was shredded or replaced, with its state."""
    with chosen.existing(Action.INSPECT).open_reading() as archive:
        from coffer.server.engine.erasure_state import erasures
        from coffer.server.erasure.approvals import waiting_requests

        found = erasures(archive.keyring)
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
                "copies": [own for own, _ in each.copies],
            }
            for each in found
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
    for line in _of_copies({own: copy for each in found for own, copy in each.copies}.items()):
        output.say(output.plain(line))


def _of_copies(found: Collection[tuple[str, Copy]]) -> Iterator[str]:
    """What is to be said of registered copies that still have a shredded key."""
    for own, copy in found:
        end = f"until {output.when(copy.until_ms)}" if copy.until_ms else "and has no end"
        yield f"{copy} still has a shredded key, {end}"
        if copy.backup:
            yield "  once it is old enough: coffer backup prune"
        else:
            yield f"  once it is destroyed: coffer keys copied --gone {own} --reason TEXT"
    if found:
        last = _last_end(found)
        when = f"before {last}" if last else "until each copy without an end is reported destroyed"
        yield f"what was shredded is not effectively erased {when}"


def _last_end(found: Collection[tuple[str, Copy]]) -> str | None:
    """When the last copy ends; None if there is none, or one without an end."""
    from coffer.server.copies.register import latest_end

    last = latest_end(copy for _, copy in found)
    return output.when(last) if last else None


def _request_row(request_id: str, one: ShredRequest) -> dict[str, Any]:
    return {
        "request": request_id,
        "studies": parts_to_shred.studies(one.selection),
        "requested": output.when(one.requested_ms),
        "officers": ", ".join(map(str, one.officers)),
        "reason": one.reason,
    }


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
