"""`coffer index`: make the index again from the log."""

import time

import click

from coffer.keys.errors import IntegrityError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option


@click.group()
def index() -> None:
    """Look after the index, which can always be made again from the log."""


@index.command(
    epilog="""\b
Examples:
  coffer index rebuild

\b
Needs the key file, and that no server is running. What lies there is removed unread, damaged or not. Nothing is lost
when it is interrupted: start it again. Exit code 3 when objects could not be read; a server tries them again."""
)
@archive_options()
@json_option
@click.pass_obj
def rebuild(chosen: Chosen) -> None:
    """Throw the index away and make it again from every record of the log."""
    started = time.monotonic()
    admitted = chosen.existing(Action.REINDEX)
    with output.progress("indexing", hidden=chosen.json) as bar, admitted.open_for_rebuild() as archive:
        archive.rebuild_index(bar.reach)
        stats = archive.stats()
    seconds = time.monotonic() - started
    if chosen.json:
        told = {"studies": stats.studies, "objects": stats.objects, "skipped": stats.skipped}
        output.as_json({**told, "seconds": round(seconds, 3)})
    else:
        output.say(f"{stats.objects} objects of {stats.studies} studies are indexed again ({seconds:.1f} s)")
    if stats.skipped:
        raise IntegrityError(
            f"{stats.skipped} objects could not be read or opened and are not in the index",
            hint="coffer verify --level decrypt names them; once repaired, or once their key is back, they are found",
        )
