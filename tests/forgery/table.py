"""The table of docs/integrity.md: which change is found by which command, with which key or mark from outside.

Changes with the same outcome share a row. "yes" is every case that was tried, "–" none, "some" anything between.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Final

from bench.marked import with_part
from tests.forgery.accepted import LISTED, Listed
from tests.forgery.campaign import WRITING, Row, Tally
from tests.forgery.commands import COMMANDS

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "integrity.md"
BEGIN: Final = "<!-- written by `python -m tests.forgery --write` -->"
END: Final = "<!-- end of what tests.forgery writes -->"
ALWAYS, SOME, NEVER = "yes", "some", "–"
COLUMNS: Final = (*((each.name, anchor) for each in COMMANDS for anchor in each.anchors), (WRITING, "mark"))
_TITLES: Final = {"none": "nothing from outside", "vkey": "verifier key", "mark": "mark"}
_WIDTH: Final = 150
Cells = tuple[str, ...]


def cells(row: Row) -> Cells:
    """One word for each column of `COLUMNS`; empty where nothing was tried."""
    return tuple(_cell(row.found[column], row.tried[column]) for column in COLUMNS)


def _cell(found: int, tried: int) -> str:
    if not tried:
        return ""
    return ALWAYS if found == tried else SOME if found else NEVER


def written(tally: Tally, seed: int, day: str) -> str:
    """What stands between the marks: the counts, the table, and the list of what nothing can find."""
    groups: dict[Cells, list[str]] = {}
    for name, row in sorted(tally.rows.items()):
        groups.setdefault(cells(row), []).append(name)
    head = ["Change", *(_title(name, anchor) for name, anchor in COLUMNS)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for found, names in sorted(groups.items(), key=lambda each: (each[0].count(ALWAYS), each[0]), reverse=True):
        lines.append(f"| {'; '.join(names)} | {' | '.join(found)} |")
    listed = [line(each) for each in LISTED]
    counts = (
        f"{tally.cases:,} cases on {day} (seed {seed}); {tally.unchanged:,} more left the archive as it was. In"
        f" {tally.written:,} the archive was then opened for writing, an object stored and a checkpoint signed:"
        f" {tally.refused:,} were refused, and in the others no record under a new signature was forged."
    )
    return "\n".join(
        ["", "", fill(counts, _WIDTH), "", *lines, "", "Listed, because nothing can find it:", "", *listed, "", ""]
    )


def line(entry: Listed) -> str:
    """An entry of the list."""
    return fill(f"- **{entry.what}**: {entry.reason}.", _WIDTH, subsequent_indent="  ")


def _title(name: str, anchor: str) -> str:
    several = len({other for each, other in COLUMNS if each == name}) > 1
    return f"`{name}`, {_TITLES[anchor]}" if several else f"`{name}`"


def put_into(text: str, part: str) -> str:
    """The page with this part between its marks."""
    return with_part(text, BEGIN, END, part)


def read(text: str) -> Mapping[str, Cells]:
    """The cells of each change, as the page has them."""
    part = text.partition(BEGIN)[2].partition(END)[0]
    found = {}
    for line in part.splitlines():
        if line.startswith("| ") and not line.startswith("| Change"):
            names, *values = (each.strip() for each in line.strip("|").split(" | "))
            found |= dict.fromkeys(names.split("; "), tuple(value.strip("| ") for value in values))
    return found


def contradictions(page: Mapping[str, Cells], tally: Tally) -> list[str]:
    """Where a run contradicts the page: a change that it lacks, or one that it finds always and the page never, or the
    other way round. Which command finds one case may depend on what chance picked."""
    wrong = [f"the page has no row for: {name}" for name in sorted(tally.rows.keys() - page.keys())]
    for name, row in tally.rows.items():
        said, seen = _kind(page.get(name, ())), _kind(cells(row))
        if {said, seen} == {ALWAYS, NEVER} and not row.listed:  # what is listed nobody has to find
            wrong.append(f"{name}: this run says {seen}, and the page {said}")
    return wrong


def _kind(found: Cells) -> str:
    """Whether one command finds every case, or none any."""
    return ALWAYS if ALWAYS in found else SOME if SOME in found else NEVER
