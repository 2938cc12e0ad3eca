"""`coffer audit search` and `coffer audit study`: entries of the audit trail as a table, JSON or CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.audit.wanted import OUTCOMES, wanted_of, wanted_options
from coffer.server.cli.options import Chosen, archive_options, json_option, unaudited_option

if TYPE_CHECKING:
    from coffer.server.services.auditing import Entry, Wanted

_COLUMNS: Final = ("time", "action", "stage", "outcome", "who", "from", "to", "patient", "study", "objects", "reason")


def csv_option(function: Any) -> Any:
    """Add --csv."""
    return click.option("--csv", "as_csv", is_flag=True, help="Print results as CSV (RFC 4180).")(function)


@click.command(
    epilog="""\b
Examples:
  coffer audit search --patient PID-1 --since 2026-11-01
  coffer audit search --user meyer --action export --csv > exports.csv
  coffer audit search --outcome denied --since 2026-12-01T08:00 --json | jq '.[].who'

\b
Oldest first. What a query or a retrieval asked for stands there before it was answered; `done` says how it ended.
Events of the archive itself (keys, holds, erasures, users) are in the same list. Needs the key file, and works beside
a server."""
)
@wanted_options
@csv_option
@unaudited_option
@archive_options()
@json_option
@click.pass_obj
def search(chosen: Chosen, /, *, as_csv: bool, unaudited: str | None, **options: Any) -> None:
    """List what was done, by patient, study, user, AE title, action, outcome or time."""
    _list(chosen, wanted_of(**options), as_csv=as_csv, unaudited=unaudited)


@click.command(
    epilog="""\b
Examples:
  coffer audit study 1.2.840.99999.1
  coffer audit study 1.2.840.99999.1 --csv > life.csv

\b
The same as coffer audit search --study UID. It works after the study was erased, too: the audit trail keeps the UID and
the Patient ID under a key of its own."""
)
@click.argument("uid", metavar="STUDY_INSTANCE_UID")
@csv_option
@unaudited_option
@archive_options()
@json_option
@click.pass_obj
def study(chosen: Chosen, uid: str, as_csv: bool, unaudited: str | None) -> None:
    """Show the life of one study, from its arrival to its erasure."""
    from coffer.server.services.auditing import Wanted

    _list(chosen, Wanted(study=uid.strip()), as_csv=as_csv, unaudited=unaudited)


def _list(chosen: Chosen, wanted: Wanted, *, as_csv: bool, unaudited: str | None) -> None:
    admitted = chosen.existing(Action.READ_AUDIT)
    with admitted.open_reading(may_lag=True, unaudited=unaudited) as archive:
        from coffer.server.services.auditing import entries

        rows = map(_row, entries(archive, admitted.principal, wanted))
        if as_csv:
            _as_csv(rows)
        elif chosen.json:
            output.json_array(rows)
        else:
            output.table(_COLUMNS, _texts(rows))


def _as_csv(rows: Iterable[dict[str, Any]]) -> None:
    written = csv.writer(sys.stdout, lineterminator="\r\n")
    written.writerow(_COLUMNS)
    written.writerows(map(_safe, _texts(rows)))


def _safe(cells: list[str]) -> list[str]:
    """Cells that no spreadsheet takes for a formula."""
    return [f"'{each}" if each[:1] in {"=", "+", "-", "@"} else output.plain(each) for each in cells]


def _texts(rows: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    return ([_text(row[name]) for name in _COLUMNS] for row in rows)


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _row(entry: Entry) -> dict[str, Any]:
    """An entry as columns; the record's number and the whole act or event besides."""
    import msgspec

    from coffer.archive.events.accesses import Act

    what = entry.what
    found: dict[str, Any] = dict.fromkeys(_COLUMNS)
    found |= {"time": output.when(entry.at_ms), "action": entry.action, "who": entry.who, "outcome": "success"}
    if isinstance(what, Act):
        found |= {
            "stage": what.stage,
            "outcome": next(word for word, number in OUTCOMES.items() if number == what.outcome),
            "from": what.who.host or what.who.ae_title,
            "to": what.target or None,
            "patient": list(dict.fromkeys(each.patient for each in what.subjects if each.patient)),
            "study": list(dict.fromkeys(each.study for each in what.subjects if each.study)),
            "objects": sum(count.objects for each in what.subjects for count in each.classes) or None,
            "reason": what.reason or None,
        }
    else:
        found["reason"] = getattr(what, "reason", None)
    return {**found, "record": entry.seq, "details": msgspec.to_builtins(what)}
