"""`coffer scrub`: what the background scrub of the server has found, and its acknowledgement."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.verify.findings import FindingStore, RecordedFinding


@click.group()
def scrub() -> None:
    """Show what the background scrub has found, and acknowledge it."""


@scrub.command(
    epilog="""\b
Examples:
  coffer scrub show
  coffer scrub show --json | jq '.findings[].what'

\b
Works beside a server. Exit code 1 while findings are not acknowledged. An acknowledgement counts if it was made with
the archive's key, which has to be at hand to check it: without, every finding counts as not acknowledged."""
)
@archive_options()
@json_option
@click.pass_obj
def show(chosen: Chosen) -> None:
    """Show the scrub's progress, the age of the oldest reading, and every finding."""
    config = chosen.existing(Action.INSPECT).config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.tree.checkpoint import Checkpoint
    from coffer.archive.verify.scrub import Scrub
    from coffer.keys.clock import clock_ms
    from coffer.server.maintenance.acknowledged import findings_as_far_as_known

    folder = ArchiveFolder.open(config.archive)

    def nothing() -> Checkpoint | None:
        return None

    state = Scrub(folder, remembered=nothing, now_ms=clock_ms, pace=lambda _: None, on_finding=lambda _: None)
    oldest = state.oldest_ms()
    with findings_as_far_as_known(config) as findings:
        rows = [_row(findings, each) for each in findings.entries()]
        waiting = len(findings.open_entries())
    age = 0.0 if oldest is None else max(clock_ms() - oldest, 0) / 1000
    if chosen.json:
        progress = {"passes": state.position.passes, "segment": state.position.segment}
        output.as_json({**progress, "oldest_unverified_seconds": age, "findings": rows})
    else:
        output.facts(
            {
                "full passes": str(state.position.passes),
                "next": f"segment {state.position.segment}, offset {state.position.offset}",
                "oldest": f"{age / 86400:.1f} days since it was read or stored",
                "findings": f"{waiting} not acknowledged, {len(rows) - waiting} acknowledged",
            }
        )
        for row in rows:
            output.say(output.plain(_line(row)))
    if waiting:
        click.get_current_context().exit(1)


@scrub.command(
    epilog="""\b
Examples:
  coffer scrub acknowledge                     all of them
  coffer scrub acknowledge 2-35184-a81c03      one, by its name in `coffer scrub show`

\b
Needs the key and works beside a server. It repairs nothing: it ends the warnings about damage that you know of. The
finding stays listed until the record is repaired (coffer repair) and read again."""
)
@click.argument("names", nargs=-1, metavar="[FINDING]...")
@archive_options()
@json_option
@click.pass_obj
def acknowledge(chosen: Chosen, names: tuple[str, ...]) -> None:
    """Acknowledge findings; without names, all of them."""
    config = chosen.existing(Action.ACKNOWLEDGE).config
    from coffer.keys.clock import clock_ms
    from coffer.server.maintenance.acknowledged import findings_with_key

    with findings_with_key(config) as findings:
        done = [_row(findings, each) for each in findings.acknowledge(names, clock_ms())]
    if chosen.json:
        output.as_json({"acknowledged": done})
    else:
        output.say(f"{len(done)} findings are acknowledged")


def _row(findings: FindingStore, entry: RecordedFinding) -> dict[str, Any]:
    return {"finding": entry.name, "state": findings.acknowledgement(entry).value, **dataclasses.asdict(entry)}


def _line(row: dict[str, Any]) -> str:
    record = "" if row["record"] is None else f", record {row['record']}"
    where = f"segment {row['segment']}, offset {row['offset']}{record}"
    return f"{row['finding']}  {row['state']}, found {output.when(row['found_ms'])}: {where}: {row['what']}"
