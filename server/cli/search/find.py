"""`coffer find`: query by attributes, as C-FIND does (PS3.4 C.2.2.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from coffer.index.dicom.attributes import QueryLevel
from coffer.index.dicom.keywords import closest, is_multiple, tag_of
from coffer.keys.errors import InputError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option
from coffer.server.cli.search.keys import name_of, require_usable

if TYPE_CHECKING:
    from coffer.index.dicom.attributes import Values

_LEVELS = {"patient": "PATIENT", "study": "STUDY", "series": "SERIES", "instance": "IMAGE", "image": "IMAGE"}
_COLUMNS = {
    "PATIENT": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    "STUDY": (
        "PatientName", "PatientID", "StudyDate", "ModalitiesInStudy", "StudyDescription", "AccessionNumber",
        "NumberOfStudyRelatedInstances", "StudyInstanceUID",
    ),
    "SERIES": ("Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances", "SeriesInstanceUID"),
    "IMAGE": ("InstanceNumber", "SOPClassUID", "SOPInstanceUID"),
}  # fmt: skip
_QUERY_RETRIEVE_LEVEL = 0x00080052
_NUMBERED = re.compile(r"^\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?$")


@click.command(
    epilog="""\b
Examples:
  coffer find                                           all studies
  coffer find PatientName='SMITH*' StudyDate=20240101-20240630
  coffer find ModalitiesInStudy=CT --return StudyInstanceUID --json
  coffer find --level series StudyInstanceUID=1.2.840.99999.1
  coffer find --level instance StudyInstanceUID=1.2.3 SeriesInstanceUID=1.2.3.4

\b
An attribute is a DICOM keyword (PatientID) or a tag (0010,0020). Values match as in C-FIND: * and ? are wildcards,
20240101- is a range of dates or times, A\\B is either of two UIDs. Below the study level, the UIDs of the levels
above are required. Matching of names ignores case."""
)
@click.argument("query", metavar="[ATTRIBUTE=VALUE]...", nargs=-1)
@click.option(
    "--level", type=click.Choice(list(_LEVELS), case_sensitive=False), default="study", show_default=True,
    help="What each row describes.",
)  # fmt: skip
@click.option("--return", "returned", multiple=True, metavar="ATTRIBUTE", help="Column to show; may be repeated.")
@click.option("--limit", type=click.IntRange(1), help="Stop after this many rows.")
@archive_options()
@json_option
@click.pass_obj
def find(chosen: Chosen, query: tuple[str, ...], level: str, returned: tuple[str, ...], limit: int | None) -> None:
    """Find patients, studies, series or instances by their attributes."""
    name = _LEVELS[level.lower()]
    conditions = dict(_condition(one) for one in query)
    columns = [_tag(one) for one in returned or _COLUMNS[name]]
    require_usable(conditions, columns, QueryLevel[name])
    keys: dict[int, Values] = {_QUERY_RETRIEVE_LEVEL: (name,), **dict.fromkeys(columns, ()), **conditions}
    admitted = chosen.existing(Action.FIND)
    with admitted.open_reading() as archive:
        from coffer.server.services.find import Finder

        model = "patient" if name == "PATIENT" else "study"
        rows: Iterator[Mapping[int, Values]] = Finder(archive).rows(keys, model=model, caller=admitted.principal)
        if limit is not None:
            rows = (row for row, _ in zip(rows, range(limit), strict=False))
        if chosen.json:
            shown = [*columns, *(t for t in conditions if t not in columns)]
            output.json_array({name_of(tag): _as_json(tag, row.get(tag, ())) for tag in shown} for row in rows)
        else:
            output.table(
                [name_of(tag) for tag in columns], ([_as_text(row.get(tag, ())) for tag in columns] for row in rows)
            )


def _condition(text: str) -> tuple[int, Sequence[str]]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"{text!r} is not ATTRIBUTE=VALUE; use --return {text} for a column.")
    return _tag(name), tuple(value.split("\\")) if value else ()


def _tag(name: str) -> int:
    """The tag of a keyword or of `gggg,eeee`. Raises InputError with the closest keyword."""
    if numbered := _NUMBERED.match(name.strip()):
        return int(numbered[1] + numbered[2], 16)
    tag = tag_of(name.strip())
    if tag is None:
        close = closest(name)
        hint = (
            f"did you mean {close}?" if close else "use a PS3.6 keyword such as PatientID, or a tag such as 0010,0020"
        )
        raise InputError(f"{name} is not a DICOM attribute", hint=hint)
    return tag


def _as_json(tag: int, values: Values) -> Any:
    """Text for an attribute that has one value in PS3.6, otherwise a list; sequences are lists of items."""
    plain = [v if isinstance(v, str) else {name_of(t): _as_json(t, vs) for t, vs in v.items()} for v in values]
    return plain if is_multiple(tag) else "\\".join(str(v) for v in plain)


def _as_text(values: Values) -> str:
    return "\\".join(v if isinstance(v, str) else f"<{len(v)} attributes>" for v in values)
