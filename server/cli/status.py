"""`coffer status`: what the archive holds and how it is."""

import click
import msgspec

from server.cli import output
from server.cli.options import Chosen, archive_options, json_option


@click.command(
    epilog="""\b
Examples:
  coffer status
  coffer status --json | jq .ratio

\b
Works beside a running server. "index lag" counts records that the index on disk does not hold yet: a running
server has them in memory. "conflicts" are instances that came again with other bytes; every version is kept."""
)
@archive_options()
@json_option
@click.pass_obj
def status(chosen: Chosen) -> None:
    """Show studies, objects, bytes received and stored, segments, index lag, key epoch and what needs a look."""
    with chosen.open() as engine:
        stats = engine.stats()
        archive, key_file = engine.config.archive, engine.config.keys.key_file
    if chosen.json:
        output.as_json({"archive": archive, **msgspec.to_builtins(stats, enc_hook=str), "ratio": stats.ratio})
        return
    output.facts(
        {
            "archive": str(archive),
            "key file": str(key_file),
            "studies": f"{stats.studies:,}",
            "series": f"{stats.series:,}",
            "objects": f"{stats.objects:,}",
            "received": output.size(stats.bytes_received),
            "stored": f"{output.size(stats.bytes_stored)} ({stats.ratio:.3f} of what was received)",
            "segments": f"{stats.segments}, {output.size(stats.segment_bytes)}",
            "index lag": f"{stats.index_lag} records",
            "key epoch": str(stats.key_epoch),
            "conflicts": f"{stats.conflicts:,}",
            "not indexed": f"{stats.unindexed:,} objects, stored as received",
        }
    )
