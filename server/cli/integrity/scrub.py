"""`coffer scrub`: what the background scrub of the server has found, and its acknowledgement."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.verify.findings import RecordedFinding


@click.group()
def scrub() -> None:
    """Show what the background scrub has found, and acknowledge it."""


@scrub.command(
    epilog="""\b
Examples:
  coffer scrub show
  coffer scrub show --json | jq '.findings[].what'

\b
Needs no key and works beside a server. Exit code 1 while findings are not acknowledged."""
)
@archive_options()
@json_option
@click.pass_obj
def show(chosen: Chosen) -> None:
    """Show the scrub's progress, the age of the oldest reading, and every finding."""
    config = chosen.existing(Action.INSPECT).config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.tree.checkpoint import Checkpoint
    from coffer.archive.verify.findings import FindingStore
    from coffer.archive.verify.scrub import Scrub
    from coffer.keys.clock import clock_ms

    folder = ArchiveFolder.open(config.archive)

    def nothing() -> Checkpoint | None:
        return None

    state = Scrub(folder, remembered=nothing, now_ms=clock_ms, pace=lambda _: None, on_finding=lambda _: None)
    oldest, entries = state.oldest_ms(), FindingStore(folder.scrub).entries()
    waiting = [e for e in entries if not e.acknowledged_ms]
    age = 0.0 if oldest is None else max(clock_ms() - oldest, 0) / 1000
    if chosen.json:
        progress = {"passes": state.position.passes, "segment": state.position.segment}
        output.as_json({**progress, "oldest_unverified_seconds": age, "findings": [_row(e) for e in entries]})
    else:
        output.facts(
            {
                "full passes": str(state.position.passes),
                "next": f"segment {state.position.segment}, offset {state.position.offset}",
                "oldest": f"{age / 86400:.1f} days since it was read or stored",
                "findings": f"{len(waiting)} not acknowledged, {len(entries) - len(waiting)} acknowledged",
            }
        )
        for entry in entries:
            output.say(output.plain(_line(entry)))
    if waiting:
        click.get_current_context().exit(1)


@scrub.command(
    epilog="""\b
Examples:
  coffer scrub acknowledge                     all of them
  coffer scrub acknowledge 2-35184-a81c03      one, by its name in `coffer scrub show`

\b
Needs no key and works beside a server. It repairs nothing: it ends the warnings about damage that you know of. The
finding stays listed until the record is repaired (coffer repair) and read again."""
)
@click.argument("names", nargs=-1, metavar="[FINDING]...")
@archive_options()
@json_option
@click.pass_obj
def acknowledge(chosen: Chosen, names: tuple[str, ...]) -> None:
    """Acknowledge findings; without names, all of them."""
    config = chosen.existing(Action.ACKNOWLEDGE).config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.verify.findings import FindingStore
    from coffer.keys.clock import clock_ms

    done = FindingStore(ArchiveFolder.open(config.archive).scrub).acknowledge(names, clock_ms())
    if chosen.json:
        output.as_json({"acknowledged": [_row(e) for e in done]})
    else:
        output.say(f"{len(done)} findings are acknowledged")


def _row(entry: RecordedFinding) -> dict[str, Any]:
    return {"finding": entry.name, **dataclasses.asdict(entry)}


def _line(entry: RecordedFinding) -> str:
    record = "" if entry.record is None else f", record {entry.record}"
    state = "acknowledged" if entry.acknowledged_ms else "not acknowledged"
    where = f"segment {entry.segment}, offset {entry.offset}{record}"
    return f"{entry.name}  {state}, found {output.when(entry.found_ms)}: {where}: {entry.what}"
