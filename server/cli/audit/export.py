"""`coffer audit export`: the audit trail as messages of PS3.15 A.5, or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.audit.wanted import wanted_of, wanted_options
from coffer.server.cli.options import Chosen, archive_options, json_option, unaudited_option

if TYPE_CHECKING:
    from coffer.server.engine.archive import ReadableArchive
    from coffer.server.services.auditing import Entry


@click.command(
    epilog="""\b
Examples:
  coffer audit export --since 2026-12-01 > audit.xml
  coffer audit export --patient PID-1 --json > audit.json

\b
One AuditMessage (DICOM PS3.15 A.5.1) on each line, oldest first; an act that concerned several patients is several
messages. With --json one act or event on each line of an array. Events of the archive itself are in the JSON only."""
)
@wanted_options
@unaudited_option
@archive_options()
@json_option
@click.pass_obj
def export(chosen: Chosen, /, *, unaudited: str | None, **options: Any) -> None:
    """Write the audit trail as DICOM audit messages (XML), or as JSON."""
    wanted = wanted_of(**options)
    admitted = chosen.existing(Action.READ_AUDIT)
    with admitted.open_reading(may_lag=True, unaudited=unaudited) as archive:
        from coffer.server.services.auditing import entries

        found = entries(archive, admitted.principal, wanted)
        if chosen.json:
            output.json_array(map(_json, found))
        else:
            for each in found:
                _say(each, archive)


def _json(entry: Entry) -> dict[str, Any]:
    import msgspec

    what: dict[str, Any] = msgspec.to_builtins(entry.what)
    return {"record": entry.seq, "time_ms": entry.at_ms, "action": entry.action, **what}


def _say(entry: Entry, archive: ReadableArchive) -> None:
    from coffer.archive.events.accesses import Act
    from coffer.server.audit.message import Source, messages_of
    from coffer.server.audit.xml import encoded

    if isinstance(entry.what, Act):
        for message in messages_of(entry.what, Source(archive.config.dimse.ae_title, archive.folder.origin)):
            output.say(encoded(message).decode())
