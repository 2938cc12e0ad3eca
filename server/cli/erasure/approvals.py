"""`coffer shred request`, `approve`, `cancel`: shreds that more than one officer must agree to."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.erasure import doomed_parts
from coffer.server.cli.erasure.study import asked, chosen_parts, report, require_reason_unless
from coffer.server.cli.options import Chosen, archive_options, json_option


@click.command(
    epilog="""\b
Examples:
  coffer shred request 1.2.840.99999.1 --reason 'erasure request 2026-17' --officer Meyer
  coffer shred approve 5f1c0a77 --officer Schmidt

\b
Names the studies as they are now, with the keys they have now. What was approved is what is erased: an approval is
refused where such a study has more objects by then, or another patient's; a further study of the patient is not
covered."""
)
@asked
@archive_options()
@json_option
@click.pass_obj
def request(chosen: Chosen, /, *, reason: str | None, officer: str | None, dry_run: bool, **meant: Any) -> None:
    """Ask for a shred that another officer must approve."""
    require_reason_unless(dry_run, reason)
    admitted = chosen.existing(Action.PREVIEW_SHRED if dry_run else Action.REQUEST_SHRED, officer)
    with admitted.open_for_keys() as archive:
        from coffer.server.erasure.approvals import ShredRequests
        from coffer.server.erasure.shred import Shredding, wait_until_settled

        doomed = chosen_parts(chosen, archive, **meant)
        if dry_run:
            doomed_parts.show(chosen, archive, doomed, partial(Shredding(archive).require_allowed, doomed))
            return
        who = admitted.principal
        request_id = ShredRequests(archive).add(doomed, reason or "", who)
        wait_until_settled(archive)
        missing = archive.config.keys.shred_approvals - 1
    if chosen.json:
        count = doomed_parts.studies(doomed)
        output.as_json({"request": request_id, "studies": count, "officer": who.name, "approvals_missing": missing})
    else:
        what = doomed_parts.counted(doomed)
        output.say(f"request {request_id} for {what} by {who} waits for {max(missing, 1)} more")
        output.say(f"another officer: coffer shred approve {request_id} --officer NAME")


@click.command(
    epilog="""\b
Examples:
  coffer shred approve 5f1c0a77 --dry-run
  coffer shred approve 5f1c0a77 --officer Schmidt

\b
--dry-run shows whom and what it erases. The last approval that is needed shreds at once. Exit code 10 for an officer
who has asked or agreed already, where a hold or the retention forbids it, and where a study holds more by now than
when it was asked for."""
)
@click.argument("request_id", metavar="REQUEST")
@click.option("--officer", metavar="NAME", help="Who agrees.  [default: the account]")
@click.option("--dry-run", is_flag=True, help="Show whom and what it would erase, and change nothing.")
@archive_options()
@json_option
@click.pass_obj
def approve(chosen: Chosen, request_id: str, officer: str | None, dry_run: bool) -> None:
    """Agree to a request; the last officer who must agree shreds."""
    admitted = chosen.existing(Action.PREVIEW_SHRED if dry_run else Action.APPROVE, officer)
    with admitted.open_for_keys() as archive:
        from coffer.server.erasure.approvals import ShredRequests, waiting_requests
        from coffer.server.erasure.shred import wait_until_settled

        requests = ShredRequests(archive)
        if dry_run:
            doomed = requests.as_now(request_id)
            who = admitted.principal
            doomed_parts.show(chosen, archive, doomed, partial(requests.require_allowed, request_id, doomed, who))
            return
        waiting = dict(waiting_requests(archive)).get(request_id)
        key_ids = requests.approve(request_id, admitted.principal)
        if key_ids is not None:
            report(chosen, archive, list(waiting.selection) if waiting else [], key_ids)
            return
        wait_until_settled(archive)
    if chosen.json:
        output.as_json({"request": request_id, "state": "requested"})
    else:
        output.say(f"request {request_id} is approved and waits for more officers")


@click.command(
    epilog="""\b
Examples:
  coffer shred cancel 5f1c0a77

\b
Only what nobody has approved to the end can be cancelled: a study that is shredded stays shredded."""
)
@click.argument("request_id", metavar="REQUEST")
@click.option("--officer", metavar="NAME", help="Who cancels.  [default: the account]")
@archive_options()
@json_option
@click.pass_obj
def cancel(chosen: Chosen, request_id: str, officer: str | None) -> None:
    """Take a request back before it is approved."""
    admitted = chosen.existing(Action.CANCEL_REQUEST, officer)
    with admitted.open_for_keys() as archive:
        from coffer.server.erasure.approvals import ShredRequests
        from coffer.server.erasure.shred import wait_until_settled

        ShredRequests(archive).cancel(request_id, admitted.principal)
        wait_until_settled(archive)
    if chosen.json:
        output.as_json({"request": request_id, "state": "cancelled"})
    else:
        output.say(f"request {request_id} is cancelled; nothing was shredded")
