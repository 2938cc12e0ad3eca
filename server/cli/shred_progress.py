"""`coffer shred list` and `finish`: how far each erasure is, and what makes it effective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from server.cli import output
from server.cli.options import Chosen, archive_options, json_option, officer_option, open_for_keys

if TYPE_CHECKING:
    from server.requests import Request


@click.command(
    epilog="""\b
Examples:
  coffer shred finish               moves all living keys to a new epoch
  coffer shred finish --copied      when keyring and key file have been copied: destroys the old epochs

\b
Two steps, because copies of keyring and key file from before the first one open nothing after the second one: whoever
destroys first and copies later is one failed disk away from losing everything. Works beside a running server.
Exit code 12 for --copied before the first step, 6 where the provider or the writer cannot be reached, 7 where somebody
else changes the keys: say it again."""
)
@click.option("--copied", is_flag=True, help="Keyring and key file were copied after the first step; destroy.")
@click.option("--early", is_flag=True, help="Do not wait for the days of backups: older ones open nothing then.")
@officer_option
@archive_options()
@json_option
@click.pass_obj
def finish(chosen: Chosen, copied: bool, early: bool, officer: str | None) -> None:
    """Make scheduled shreds effective, in two steps: move the living keys, then destroy the old epochs."""
    with open_for_keys(chosen) as engine:
        from server.finishing import finish as next_step
        from server.officers import Officer

        title = "ending old epochs" if copied else "moving keys"
        with output.progress(title, hidden=chosen.json) as bar:
            done = next_step(engine, Officer.here(officer), copied=copied, early=early, progress=bar.reach)
        epoch = engine.keyring.epoch
    if chosen.json:
        output.as_json(
            {
                "epoch": epoch,
                "moved": done.moved,
                "destroyed": done.destroyed,
                "still_to_destroy": done.caveats,
                "wait_for_copies": done.waiting,
                "effective": done.effective,
                "scheduled": len(done.erasures) - done.effective,
                "index_written_anew": done.is_index_new,
            }
        )
        return
    if done.moved:
        output.say(f"{done.moved} keys are under epoch {epoch} now")
    for caveat in done.caveats:
        output.say(f"destroyed, {caveat}")
    if done.waiting:
        output.say("now copy the keyring and what opens it (key file, HSM backup, shares), then:")
        output.say("  coffer shred finish --copied")
    if not done.is_index_new:
        output.say(
            "the index still holds keyed hashes of shredded studies; the process that writes tries again: its log"
        )
    output.say(f"{done.effective} shreds are effective, {len(done.erasures) - done.effective} are scheduled")


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
    with chosen.open() as engine:
        from server.erasure import erasures
        from server.requests import Requests

        requests = [_request_row(request_id, one) for request_id, one in Requests(engine).all()]
        shreds = [
            {
                "study_key": each.key_id.hex(),
                "why": each.stone.reason.name.lower(),
                "state": each.state,
                "scheduled": output.when(each.stone.scheduled_ms),
                "backups_until": output.when(each.stone.until_ms),
                "epochs_to_destroy": list(each.open_epochs),
            }
            for each in erasures(engine.keyring)
        ]
    if chosen.json:
        output.as_json({"requests": requests, "shreds": shreds})
        return
    if requests:
        output.table(list(requests[0]), ([str(v) for v in row.values()] for row in requests))
        output.say()
    columns = ["study_key", "why", "state", "scheduled", "backups_until", "epochs_to_destroy"]
    output.table(columns, ([_text(v) for v in row.values()] for row in shreds))


def _request_row(request_id: str, one: Request) -> dict[str, Any]:
    return {
        "request": request_id,
        "studies": len(one.doomed),
        "requested": output.when(one.requested_ms),
        "officers": ", ".join(map(str, one.officers)),
        "reason": one.reason,
    }


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
