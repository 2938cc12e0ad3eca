"""`coffer versions`: everything that was ever stored under one SOP Instance UID."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.index.query.parts import StoredVersion


@click.command(
    epilog="""\b
Examples:
  coffer versions 1.2.840.99999.1.2.3
  coffer versions 1.2.840.99999.1.2.3 --json | jq '.[] | select(.served | not)'
  coffer get --instance 1.2.840.99999.1.2.3 --version 1

\b
An object that is sent again with different content is kept beside the first one. The served version is the one that
queries describe and retrievals send; [versions] in coffer.toml selects it. If the UID occurs in several studies or
series, versions are counted from 1 in each."""
)
@click.argument("instance", metavar="SOP_INSTANCE_UID")
@archive_options()
@json_option
@click.pass_obj
def versions(chosen: Chosen, instance: str) -> None:
    """List every version of an object: when it arrived, from whom, and which one is served."""
    admitted = chosen.existing(Action.RETRIEVE)
    with admitted.open_reading() as archive:
        from coffer.server.services.versions import versions_of

        rows = [_fields(each) for each in versions_of(archive, instance.strip(), admitted.principal)]
    if chosen.json:
        output.as_json(rows)
        return
    columns = ["version", "received", "from", "transfer_syntax", "bytes", "served"]
    columns += [name for name in ("patient_id", "issuer", "study", "series") if len({row[name] for row in rows}) > 1]
    output.table(columns, ([_text(row[name]) for name in columns] for row in rows))


def _fields(each: StoredVersion) -> dict[str, Any]:
    version = each.located.version
    return {
        "version": each.number,
        "received": output.when(version.received_ms),
        "from": version.source_ae,
        "transfer_syntax": version.transfer_syntax,
        "bytes": version.dataset_length,
        "served": each.is_served,
        "patient_id": each.part.patient_id,
        "issuer": each.part.issuer,
        "study": each.located.study_uid,
        "series": each.located.series_uid,
    }


def _text(value: object) -> str:
    return {True: "served", False: ""}[value] if isinstance(value, bool) else str(value)
