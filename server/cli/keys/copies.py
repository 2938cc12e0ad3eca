"""`coffer keys copied` and `copies`: the register of copies of the keyring and of what opens it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option, officer_option

if TYPE_CHECKING:
    from coffer.server.copies.register import Copy


@click.command(
    epilog="""\b
Examples:
  coffer keys copied --to 'tape 17, bank safe' --until 2027-06-30
  coffer keys copied --provider --to 'USB stick, safe in room 12' --until 2036-12-31
  coffer keys copied --gone 5f1c0a77 --reason 'shredded on 2026-11-30'

\b
A copy of the keyring, or of what opens it (key file, backup of an HSM), can open what was erased since it was made. No
erasure counts as effective, and no certificate says so, before the last day of each such copy is over everywhere on
earth (UTC-12), or somebody reported with --gone that it was destroyed: that is recorded with the name, and cannot be
checked. A copy is taken to be of this moment. For an older one say with --epoch which key epoch was the newest then: it
is taken to have every key of that time. After each rotation, copy again: what is stored since has keys that older
copies do not have, which `coffer status` says until a new copy is registered."""
)
@click.option("--to", "place", metavar="PLACE", help="Where the copy is.")
@click.option("--until", metavar="DATE", help="Its last day, as 2031-12-31.  [default: until it is reported destroyed]")
@click.option("--provider", is_flag=True, help="It is a copy of what opens the keyring, not of the keyring.")
@click.option("--epoch", type=click.IntRange(1), metavar="N", help="The newest key epoch when the copy was made.")
@click.option("--gone", metavar="COPY", help="Report that this copy was destroyed.")
@click.option("--reason", default="", metavar="TEXT", help="With --gone: how. It is kept for good.")
@officer_option
@archive_options()
@json_option
@click.pass_obj
def copied(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    place: str | None,
    until: str | None,
    provider: bool,
    epoch: int | None,
    gone: str | None,
    reason: str,
    officer: str | None,
) -> None:
    """Register a copy of the keyring or of what opens it, or report that one was destroyed."""
    if (place is None) == (gone is None) or (gone and (until or provider or epoch)):
        raise click.UsageError(
            "give --to PLACE for a new copy, or --gone COPY --reason TEXT for one that was destroyed"
        )
    until_ms = _end(until)
    admitted = chosen.existing(Action.REGISTER_COPY, officer)
    with admitted.change_keys(may_lag=True) as archive:
        from coffer.server.keyops.copy_register import CopyRegister

        register = CopyRegister(archive)
        if gone is not None:
            own, copy = gone, register.report_gone(gone, reason, admitted.principal)
        else:
            own, copy = register.add(
                "provider" if provider else "keyring", place or "", until_ms, admitted.principal, epoch=epoch
            )
    if chosen.json:
        output.as_json(_row(own, copy) | {"state": "gone" if gone else "registered"})
    elif gone:
        output.say(output.plain(f"{copy} is recorded as destroyed"))
    else:
        output.say(output.plain(f"copy {own}: {copy}, {_until(copy)}"))


def _end(text: str | None) -> int:
    from coffer.server.keyops.copy_register import end_of

    if text is None:
        return 0
    try:
        return end_of(dt.date.fromisoformat(text))
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text} is not a date such as 2031-12-31", param_hint="--until") from None


@click.command(
    epilog="""\b
Examples:
  coffer keys copies
  coffer keys copies --json | jq '.[] | select(.until == "")'"""
)
@archive_options()
@json_option
@click.pass_obj
def copies(chosen: Chosen) -> None:
    """List the registered copies: of what, where, until when, by whom."""
    with chosen.existing(Action.INSPECT).open_reading(may_lag=True) as archive:
        from coffer.server.copies.register import copies as registered

        rows = [_row(own, each) for own, each in registered(archive.keyring)]
    if chosen.json:
        output.as_json(rows)
    else:
        columns = ["copy", "of", "place", "epoch", "until", "backup", "since", "officer"]
        output.table(columns, ([str(value) for value in row.values()] for row in rows))


def _row(own: str, copy: Copy) -> dict[str, Any]:
    return {
        "copy": own,
        "of": copy.of,
        "place": copy.place,
        "epoch": copy.epoch,
        "until": output.when(copy.until_ms) if copy.until_ms else "",
        "backup": copy.backup,
        "since": output.when(copy.added_ms),
        "officer": str(copy.by),
    }


def _until(copy: Copy) -> str:
    return f"until {output.when(copy.until_ms)}" if copy.until_ms else "until it is reported destroyed"
