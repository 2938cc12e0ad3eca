"""`coffer shred request`, `approve`, `cancel`: shreds that more than one officer must approve."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.erasure import parts_to_shred
from coffer.server.cli.erasure.study import report, require_reason_unless, selected_parts, selection_options, settle
from coffer.server.cli.options import Chosen, archive_options, json_option


@click.command(
    epilog="""\b
Examples:
  coffer shred request 1.2.840.99999.1 --reason 'erasure request 2026-17' --officer Meyer
  coffer shred approve 5f1c0a77 --officer Schmidt

\b
The request names the studies as they are now, with their present keys. Only what was approved is erased: an approval
is refused if such a study has gained objects, or another patient's, since the request; a later study of the patient is
not covered."""
)
@selection_options
@archive_options()
@json_option
@click.pass_obj
def request(chosen: Chosen, /, *, reason: str | None, officer: str | None, dry_run: bool, **meant: Any) -> None:
    """Request a shred that another officer must approve."""
    require_reason_unless(dry_run, reason)
    admitted = chosen.existing(Action.PREVIEW_SHRED if dry_run else Action.REQUEST_SHRED, officer)
    with admitted.change_keys() as archive:
        from coffer.server.erasure.approvals import ShredRequests
        from coffer.server.erasure.shred import Shredding

        selection = selected_parts(chosen, archive, **meant)
        if dry_run:
            parts_to_shred.show(chosen, archive, selection, partial(Shredding(archive).require_allowed, selection))
            return
        who = admitted.principal
        request_id = ShredRequests(archive).add(selection, reason or "", who)
        missing = archive.policy.officers_needed - 1
    if chosen.json:
        count = parts_to_shred.studies(selection)
        output.as_json({"request": request_id, "studies": count, "officer": who.name, "approvals_missing": missing})
    else:
        what = parts_to_shred.counted(selection)
        approvals = parts_to_shred.number_of(max(missing, 1), "more approval")
        output.say(f"request {request_id} for {what} by {who} needs {approvals}")
        output.say(f"another officer runs: coffer shred approve {request_id} --officer NAME")


@click.command(
    epilog="""\b
Examples:
  coffer shred approve 5f1c0a77 --dry-run
  coffer shred approve 5f1c0a77 --officer Schmidt

\b
--dry-run shows whose data would be erased, and what. The last required approval shreds at once. Exit code 10 for an
officer who has already requested or approved it, if a hold or the retention forbids it, and if a study has more objects
now than when the shred was requested."""
)
@click.argument("request_id", metavar="REQUEST")
@click.option("--officer", metavar="NAME", help="Who approves.  [default: the account]")
@click.option("--dry-run", is_flag=True, help="Show whose data it would erase, and what; change nothing.")
@archive_options()
@json_option
@click.pass_obj
def approve(chosen: Chosen, request_id: str, officer: str | None, dry_run: bool) -> None:
    """Approve a request; the last required approval shreds."""
    admitted = chosen.existing(Action.PREVIEW_SHRED if dry_run else Action.APPROVE, officer)
    with admitted.change_keys() as archive:
        from coffer.server.erasure.approvals import ShredRequests, waiting_requests

        requests = ShredRequests(archive)
        if dry_run:
            selection = requests.as_now(request_id)
            who = admitted.principal
            parts_to_shred.show(
                chosen, archive, selection, partial(requests.require_allowed, request_id, selection, who)
            )
            return
        waiting = dict(waiting_requests(archive)).get(request_id)
        selection = list(waiting.selection) if waiting else []
        key_ids = requests.approve(request_id, admitted.principal)
        left = None if key_ids is None else settle(chosen, archive, selection, key_ids)
    if key_ids is not None and left is not None:
        report(chosen, selection, key_ids, left)
    elif chosen.json:
        output.as_json({"request": request_id, "state": "requested"})
    else:
        output.say(f"request {request_id} is approved; it needs more officers")


@click.command(
    epilog="""\b
Examples:
  coffer shred cancel 5f1c0a77

\b
Only a request that is not fully approved can be cancelled: a shredded study stays shredded."""
)
@click.argument("request_id", metavar="REQUEST")
@click.option("--officer", metavar="NAME", help="Who cancels.  [default: the account]")
@archive_options()
@json_option
@click.pass_obj
def cancel(chosen: Chosen, request_id: str, officer: str | None) -> None:
    """Cancel a request before it is fully approved."""
    admitted = chosen.existing(Action.CANCEL_REQUEST, officer)
    with admitted.change_keys() as archive:
        from coffer.server.erasure.approvals import ShredRequests

        ShredRequests(archive).cancel(request_id, admitted.principal)
    if chosen.json:
        output.as_json({"request": request_id, "state": "cancelled"})
    else:
        output.say(f"request {request_id} is cancelled; nothing was shredded")
