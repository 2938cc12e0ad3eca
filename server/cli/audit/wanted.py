"""The options by which commands choose entries of the audit trail."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from coffer.keys.errors import InputError

if TYPE_CHECKING:
    from coffer.server.services.auditing import Wanted

__all__ = ["OUTCOMES", "wanted_of", "wanted_options"]

F = TypeVar("F", bound=Callable[..., Any])
OUTCOMES: Final = {"success": 0, "minor": 4, "denied": 8, "major": 12}
_DAY: Final = dt.timedelta(days=1)


def wanted_options(function: F) -> F:
    """Add the options; the command gets them by the names that `wanted_of` takes."""
    for option in reversed(
        (
            click.option("--patient", metavar="ID", help="Patient ID, exactly."),
            click.option("--study", metavar="UID", help="Study Instance UID."),
            click.option("--user", metavar="NAME", help="User, account or name of whoever acted."),
            click.option("--ae", "ae_title", metavar="TITLE", help="AE title of the caller or of the destination."),
            click.option("--action", metavar="WORD", help="Action, as `coffer access explain --help` lists them."),
            click.option("--outcome", type=click.Choice(list(OUTCOMES)), help="How it ended."),
            click.option("--since", metavar="WHEN", help="Date or time, UTC: 2026-12-01 or 2026-12-01T08:30."),
            click.option("--until", metavar="WHEN", help="The same; a day counts to its end, a time is not included."),
        )
    ):
        function = option(function)
    return function


def wanted_of(  # noqa: PLR0917  one parameter for each option
    patient: str | None,
    study: str | None,
    user: str | None,
    ae_title: str | None,
    action: str | None,
    outcome: str | None,
    since: str | None,
    until: str | None,
) -> Wanted:
    """Which entries the options choose. Raises InputError for what is no time."""
    from coffer.server.services.auditing import Wanted

    return Wanted(
        patient=patient,
        study=None if study is None else study.strip(),
        user=user,
        ae_title=ae_title,
        action=action,
        outcome=None if outcome is None else OUTCOMES[outcome],
        from_ms=None if since is None else _ms(since, is_end=False),
        until_ms=None if until is None else _ms(until, is_end=True),
    )


def _ms(text: str, *, is_end: bool) -> int:
    try:
        found = dt.datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InputError(f"{text!r} is no date or time", hint="write 2026-12-01 or 2026-12-01T08:30") from error
    found = found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)
    if is_end and len(text.strip()) <= len("2026-12-01"):
        found += _DAY
    return round(found.timestamp() * 1000)
