"""How `coffer shred` shows whose data it erases, and what, as text and as JSON. No other module shows names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import AccessDeniedError
from coffer.server.cli import output
from coffer.server.cli.options import Chosen

if TYPE_CHECKING:
    from coffer.index.query.parts import Part
    from coffer.server.engine.archive import ReadableArchive
    from coffer.server.retention.preview import Portion, Preview
    from coffer.server.retention.selection import PartToShred

_MOST_LINES = 50


def show(
    chosen: Chosen, archive: ReadableArchive, selection: list[PartToShred], require_allowed: Callable[[], object]
) -> None:
    """Print the dry run: what would be erased, what would stay and, if `require_allowed` raises, what forbids it."""
    from coffer.server.retention.preview import preview

    refused: AccessDeniedError | None = None
    try:
        require_allowed()
    except AccessDeniedError as error:
        refused = error
    found = preview(archive, selection)
    if chosen.json:
        output.as_json(
            {
                "dry_run": True,
                "studies": studies(selection),
                "instances": sum(each.instances for each in selection),
                "older_versions": sum(each.versions - each.instances for each in selection),
                "erases": [_fields(each) for each in found.erased],
                "stays": [_fields(each) | {"served_again": each.served_again} for each in found.stays],
                "refused": None if refused is None else {"cause": str(refused), "remedy": refused.hint()},
            }
        )
        return
    for line in lines(found):
        output.say(line)
    if refused is not None:
        output.say(f"would be refused: {output.plain(str(refused))}")
    output.say(f"dry run: nothing was changed; {counted(selection)} would be shredded")


def show_patients(chosen: Chosen, parts: Iterable[Part]) -> None:
    """Print the patients whose objects are stored under one UID, to choose from."""
    from coffer.server.retention.preview import portion

    found = [portion(each) for each in parts]
    if chosen.json:
        output.as_json({"patients": [_fields(each) for each in found]})
        return
    click.echo("objects of several patients are stored under this UID:", err=True)
    for each in found:
        for line in _person(each):
            click.echo(line, err=True)


def lines(found: Preview) -> list[str]:
    """What would be erased and what would stay, as lines without anything that a terminal would interpret."""
    shown = ["to be erased for good:", *_some(found.erased)]
    if found.stays:
        shown += ["what stays:", *_some(found.stays)]
    return shown


def _some(portions: Sequence[Portion]) -> list[str]:
    shown = [line for each in portions[:_MOST_LINES] for line in _person(each)]
    more = len(portions) - _MOST_LINES
    return [*shown, f"  and {more} more: --dry-run --json shows all"] if more > 0 else shown


def _person(each: Portion) -> list[str]:
    who = each.patient_name or "no name"
    born = f", born {each.birth_date}" if each.birth_date else ""
    issuer = f" (issuer {each.issuer})" if each.issuer else ""
    number = f"Patient ID {each.patient_id}{issuer}" if each.patient_id else "no Patient ID"
    what = f"study {each.study_uid}" if each.study_uid else f"object {each.sop_instance}, in no study"
    date = f" of {each.study_date}" if each.study_date else ""
    title = f", {each.description}" if each.description else ""
    counts = number_of(each.instances, "instance")
    counts += f", {number_of(each.older_versions, 'older version')}" if each.older_versions else ""
    described = [f"  {who}{born}, {number}", f"    {what}{date}{title}: {counts}"]
    if each.served_again:
        again = "is" if each.served_again == 1 else "are"
        described.append(
            f"    {number_of(each.served_again, 'older version')} of what is erased {again} found and served again"
        )
    return [output.plain(line) for line in described]


def _fields(each: Portion) -> dict[str, Any]:
    return {
        "patient_name": each.patient_name,
        "birth_date": each.birth_date,
        "patient_id": each.patient_id,
        "issuer": each.issuer,
        "study": each.study_uid,
        "instance": each.sop_instance,
        "study_date": each.study_date,
        "description": each.description,
        "instances": each.instances,
        "older_versions": each.older_versions,
    }


def studies(selection: Iterable[PartToShred]) -> int:
    """The number of studies that these parts belong to; an object that is in none counts as one."""
    return len({each.part.study_uid or each.part for each in selection})


def counted(selection: Sequence[PartToShred]) -> str:
    """`2 studies with 5 instances and 1 older version`."""
    older = sum(each.versions - each.instances for each in selection)
    instances = number_of(sum(each.instances for each in selection), "instance")
    versions = f" and {number_of(older, 'older version')}" if older else ""
    return f"{number_of(studies(selection), 'study', 'studies')} with {instances}{versions}"


def number_of(count: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"
