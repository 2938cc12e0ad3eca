"""`coffer index`: rebuild the index from the log."""

import time

import click

from coffer.keys.errors import IntegrityError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option


@click.group()
def index() -> None:
    """Maintain the index, which can always be rebuilt from the log."""


@index.command(
    epilog="""\b
Examples:
  coffer index rebuild

\b
Needs the key file; stop the server first. The old index is checked: one that was altered, or does not have what the
log has, is kept in lost+found. Nothing is lost if the command is interrupted: run it again. Exit code 3 if objects
could not be read; a server tries them again. Versions of an object whose order contradicts what they say of each other
are named, and served as the log has them."""
)
@archive_options()
@json_option
@click.pass_obj
def rebuild(chosen: Chosen) -> None:
    """Delete the index and rebuild it from every record of the log."""
    from coffer.server.maintenance.index_job import drop_index_findings
    from coffer.server.maintenance.problems import conflicts

    started = time.monotonic()
    admitted = chosen.existing(Action.REINDEX)
    with output.progress("indexing", hidden=chosen.json) as bar, admitted.open_for_rebuild() as archive:
        archive.rebuild_index(bar.reach)
        stats = archive.stats()
        several = conflicts(archive) if stats.conflicts else ()  # it looks at every study
        kept = archive.contradictions()
        drop_index_findings(archive.folder)
        contradictions = [each for found in several for each in found.contradictions]
    seconds = time.monotonic() - started
    if chosen.json:
        counts = {"studies": stats.studies, "objects": stats.objects, "skipped": stats.skipped}
        output.as_json({**counts, "seconds": round(seconds, 3), "contradictions": contradictions, "kept": kept})
    else:
        output.say(f"{stats.objects} objects in {stats.studies} studies indexed ({seconds:.1f} s)")
        for each in [*kept, *contradictions]:
            output.say(output.plain(each))
    if stats.skipped:
        raise IntegrityError(
            f"{stats.skipped} objects could not be read or opened and are not in the index",
            hint="coffer verify --level decrypt names them; they are indexed once repaired or once their key is back",
        )
