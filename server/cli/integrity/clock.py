"""`coffer clock`: whether this machine's clock may be trusted, and the confirmation that it may."""

from __future__ import annotations

import datetime as dt
from typing import Final

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option, officer_option

_WAIT_SECONDS: Final = 15.0


@click.group()
def clock() -> None:
    """Show whether the clock is in doubt, and confirm that it is right.

    A clock that jumps by more than 5 minutes, or lies before the log's last record, is in doubt until it is confirmed.
    Objects are stored, found and sent meanwhile, but nothing is granted because time has passed: no retention and no
    hold is over, no erasure becomes effective, no epoch is rotated for its age or destroyed.
    """


@clock.command(
    epilog="""\b
Examples:
  coffer clock show
  coffer clock show --json | jq -e .doubt

\b
Works beside a running server. Exit code 1: the clock is in doubt."""
)
@archive_options()
@json_option
@click.pass_obj
@click.pass_context
def show(ctx: click.Context, chosen: Chosen) -> None:
    """Show this machine's clock, and why it is in doubt."""
    from coffer.server.clock.trust import REMEDY, trust

    with chosen.existing(Action.INSPECT).open_reading(may_lag=True) as archive:
        found = trust(archive.keyring, archive.last_record_ms)
    if chosen.json:
        seen = None if found.doubt is None else found.doubt._asdict()
        output.as_json({"clock_ms": found.wall_ms, "doubt": seen, "granting_ms": found.granting_ms})
    else:
        output.say(f"this machine's clock: {output.when(found.wall_ms)}")
        output.say(found.concern() or "it is not in doubt")
        if found.doubt is not None:
            output.say(f"what is granted by time stands at {output.when(found.granting_ms)}")
            output.say(REMEDY)
    ctx.exit(0 if found.doubt is None else 1)


@clock.command(
    epilog="""\b
Examples:
  coffer clock confirm --reason 'NTP server was wrong, set right'
  coffer clock confirm --at 2031-05-02T03:10:00+02:00 --reason 'by the radio clock' --officer Meyer

\b
First compare the machine's clock with another one and set it: what is confirmed is what it shows now. The log records
who confirmed it and why. If the clock had been ahead, and records of a later time are in the log, the log goes on from
the confirmed time in a new epoch of the log. Beside a running server the server does that within a second; exit code 6
says that it has not done it yet."""
)
@click.option(
    "--at", metavar="TIME", help="The time by another clock, as 2031-05-02T03:10:00+02:00: 5 minutes are the most."
)
@click.option("--reason", required=True, metavar="TEXT", help="Why. It is kept for good: write no name into it.")
@officer_option
@archive_options()
@json_option
@click.pass_obj
def confirm(chosen: Chosen, at: str | None, reason: str, officer: str | None) -> None:
    """Confirm that this machine's clock is right, and end the doubt in it."""
    told_ms = _time(at)
    admitted = chosen.existing(Action.CONFIRM_CLOCK, officer)
    from coffer.keys.errors import UnavailableError
    from coffer.keys.mailbox import events
    from coffer.server.clock import watching

    with admitted.change_keys(may_lag=True) as archive:
        keyring = archive.keyring
        last_ms = archive.last_record_ms
        confirmed_ms = watching.confirm(keyring, archive.policy, reason, admitted.principal, told_ms, last_ms)

        def is_done() -> bool:
            return not events.waiting(keyring) and not watching.is_log_behind(keyring)

        if not archive.wait_until(is_done, _WAIT_SECONDS):
            raise UnavailableError(
                "the clock is confirmed, but the log does not go on from its time yet: the writer has not done it",
                hint="nothing is to be confirmed again; coffer status and /readyz show what the writer waits for",
            )
    if chosen.json:
        output.as_json({"confirmed_ms": confirmed_ms, "officer": admitted.principal.name})
    else:
        output.say(f"the clock is confirmed: {output.when(confirmed_ms)}")


def _time(text: str | None) -> int | None:
    """The time in ms since 1970 UTC; without an offset it is UTC."""
    if text is None:
        return None
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text} is no time such as 2031-05-02T03:10:00Z", param_hint="--at") from None
    return round((found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp() * 1000)
