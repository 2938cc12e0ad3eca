"""`coffer hold`: keep studies from being shredded."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.erasure import parts_to_shred
from coffer.server.cli.options import Chosen, archive_options, json_option, officer_option

if TYPE_CHECKING:
    from coffer.server.retention.holds import Hold


@click.group(
    epilog="""\b
Examples:
  coffer hold add 1.2.840.99999.1 --reason 'court case 12 O 34/26' --officer Meyer
  coffer hold add --patient 4711 --reason 'study AMD-3' --until 2031-12-31
  coffer hold list"""
)
def hold() -> None:
    """Keep studies from being shredded: `coffer shred` refuses them and names who holds them and why."""


@hold.command(
    epilog="""\b
Examples:
  coffer hold add 1.2.840.99999.1 --reason 'court case 12 O 34/26'
  coffer hold add --patient 4711 --reason 'study AMD-3' --until 2031-12-31
  coffer hold add --patient 4711 --issuer HOSP --reason 'study AMD-3'

\b
Takes effect at once, also beside a running server, and for studies that arrive later. A hold on a patient keeps every
study that has or had an object of that patient, all of it: nothing that is stored later lifts it, whatever Patient ID
that has. Without --issuer it applies to every issuer of the ID; with it, also to objects that state no issuer, whatever
[patients] default_issuer is. It is sealed in the keyring; the log records it without naming study or patient.
The last day ends when it is over everywhere on earth (UTC-12)."""
)
@click.argument("study", metavar="[STUDY_UID]", required=False)
@click.option("--patient", metavar="ID", help="All studies with this Patient ID, present and future.")
@click.option("--issuer", metavar="TEXT", help="With --patient: only IDs of this issuer, or of none.")
@click.option("--instance", metavar="UID", help="The object with this SOP Instance UID that is in no study.")
@click.option("--reason", required=True, metavar="TEXT", help="Why. It is shown to anyone whose shred is refused.")
@click.option("--until", metavar="DATE", help="The last day of the hold, as 2031-12-31.  [default: until removed]")
@officer_option
@archive_options()
@json_option
@click.pass_obj
def add(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    study: str | None,
    patient: str | None,
    issuer: str | None,
    instance: str | None,
    reason: str,
    until: str | None,
    officer: str | None,
) -> None:
    """Hold a study, all studies of a patient, or an object that is in no study."""
    admitted = chosen.existing(Action.HOLD, officer)
    with admitted.change_keys(may_lag=True) as archive:
        from coffer.keys.clock import clock_ms
        from coffer.server.retention.holds import Hold, HoldAdmin, count_kept

        who = admitted.principal
        made = Hold(
            study_uid=study or "",
            patient_id=patient or "",
            reason=reason.strip(),
            until=_date(until),
            by=who.officer,
            added_ms=clock_ms(),
            issuer=issuer or "",
            sop_instance=instance or "",
        )
        holds = HoldAdmin(archive)
        hold_id = holds.add(made)
        count = count_kept(archive.index, holds.as_stored(made))
    if not count:
        output.warn(
            f"hold {hold_id} keeps nothing that is stored now",
            "check with coffer find that the UID or ID is right; the hold applies to what arrives later",
        )
    if chosen.json:
        output.as_json({"hold": hold_id, "until": made.until, "officer": who.name, "keeps_now": count})
        return
    output.say(f"hold {hold_id} by {who} is in effect {_until(made)}")
    output.say(
        f"it keeps {parts_to_shred.number_of(count, 'study', 'studies')} that {'is' if count == 1 else 'are'} stored"
    )


def _date(text: str | None) -> str:
    from coffer.keys.clock import clock_ms
    from coffer.server.retention.holds import today

    if text is None:
        return ""
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text} is not a date such as 2031-12-31", param_hint="--until") from None
    if day < today(clock_ms()):
        raise click.BadParameter(f"{text} is in the past", param_hint="--until")
    return day.isoformat()


@hold.command(
    "list",
    epilog="""\b
Examples:
  coffer hold list
  coffer hold list --json | jq '.[] | select(.patient == "4711")'""",
)
@archive_options()
@json_option
@click.pass_obj
def list_holds(chosen: Chosen) -> None:
    """List the holds: on what, since and until when, by whom and why."""
    with chosen.existing(Action.INSPECT).open_reading(may_lag=True) as archive:
        from coffer.server.retention.holds import Holds

        rows = [
            {
                "hold": hold_id,
                "study": one.study_uid,
                "patient": one.patient_id,
                "issuer": one.issuer,
                "instance": one.sop_instance,
                "since": output.when(one.added_ms),
                "until": one.until,
                "officer": str(one.by),
                "reason": one.reason,
            }
            for hold_id, one in Holds(archive).all()
        ]
    if chosen.json:
        output.as_json(rows)
    else:
        columns = ["hold", "study", "patient", "issuer", "instance", "since", "until", "officer", "reason"]
        output.table(columns, (list(row.values()) for row in rows))


@hold.command(
    epilog="""\b
Examples:
  coffer hold remove 5f1c0a77 --officer Meyer"""
)
@click.argument("hold_id", metavar="HOLD")
@officer_option
@archive_options()
@json_option
@click.pass_obj
def remove(chosen: Chosen, hold_id: str, officer: str | None) -> None:
    """End a hold; the log keeps a record of it and of who ended it."""
    admitted = chosen.existing(Action.RELEASE, officer)
    with admitted.change_keys(may_lag=True) as archive:
        from coffer.server.retention.holds import HoldAdmin

        HoldAdmin(archive).remove(hold_id, admitted.principal)
    if chosen.json:
        output.as_json({"hold": hold_id, "state": "removed"})
        return
    output.say(f"hold {hold_id} is removed")


def _until(one: Hold) -> str:
    return f"until {one.until}" if one.until else "until it is removed"
