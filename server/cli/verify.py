"""`coffer verify`: read every byte of the log and report what is not as it was written. Needs no key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from server.cli import output
from server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from archive.folder import ArchiveFolder
    from archive.verify import Finding

_FINDINGS = 1


@click.command(
    epilog="""\b
Examples:
  coffer verify
  coffer verify --archive /mnt/copy        a backup, without its key file
  coffer verify --level headers            the chain and the checkpoint only: quick
  coffer verify --json | jq .findings

\b
Exit code 0 when everything is as it was written, 1 with findings, each with segment, offset and record. It runs
beside a server; what is written while it runs is not looked at."""
)
@click.option(
    "--level",
    type=click.Choice(["bodies", "headers"]),
    default="bodies",
    show_default=True,
    help="Hash every byte, or check the chain of record headers only.",
)
@archive_options()
@json_option
@click.pass_obj
def verify(chosen: Chosen, level: str) -> None:
    """Check hash chain, hashes, checkpoint and every byte between, without any key."""
    archive = chosen.existing().archive
    from archive.folder import ArchiveFolder
    from archive.verify import Verifier

    folder = ArchiveFolder.open(archive)
    total = sum(folder.segment_path(n).stat().st_size for n in folder.segment_numbers())
    started = time.monotonic()
    findings = []
    with output.progress("verifying", hidden=chosen.json) as bar:
        verifier = Verifier(folder, bodies=level == "bodies", progress=lambda done: bar.advance(done, total))
        for finding in verifier.findings():
            findings.append(finding)
            if not chosen.json:
                output.say(output.plain(_line(finding, folder)))
    seconds, summary = time.monotonic() - started, verifier.summary
    if chosen.json:
        told = {"archive": str(archive), "level": level, "bytes": total, "seconds": round(seconds, 3)}
        counts = {n: getattr(summary, n) for n in ("segments", "records", "signed_records")}
        rows = [{"segment": f.segment, "offset": f.offset, "record": f.seq, "what": f.what} for f in findings]
        output.as_json({**told, **counts, "findings": rows})
    else:
        result = f"{len(findings)} findings" if findings else "no findings"
        output.say(f"{summary.records} records, {output.size(total)}, {seconds:.1f} s: {result}")
    if findings:
        click.get_current_context().exit(_FINDINGS)


def _line(finding: Finding, folder: ArchiveFolder) -> str:
    where = f"{folder.segment_path(finding.segment).name}, offset {finding.offset}" if finding.segment else "checkpoint"
    record = "" if finding.seq is None else f", record {finding.seq}"
    return f"{where}{record}: {finding.what}"
