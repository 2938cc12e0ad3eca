"""`coffer get`: write stored objects as Part 10 files into a folder."""

from __future__ import annotations

from pathlib import Path

import click

from keys.errors import CofferError, NotFoundError
from server.cli import output
from server.cli.options import Chosen, archive_options, json_option

_STUDY, _SERIES, _INSTANCE = 0x0020000D, 0x0020000E, 0x00080018


@click.command(
    epilog="""\b
Examples:
  coffer get --study 1.2.840.99999.1 --out ./out
  coffer get --study 1.2.840.99999.1 --series 1.2.840.99999.1.2
  coffer get --instance 1.2.840.99999.1.2.3 --out ./out

\b
Files are named STUDY/SERIES/INSTANCE.dcm after their UIDs. A file that exists is left as it is. The data set in each
is, bit for bit, the one that was received; of several versions of an instance it is the newest. The files are
readable: they leave the protection of the archive."""
)
@click.option("--study", "studies", multiple=True, metavar="UID", help="Study Instance UID; may be repeated.")
@click.option("--series", multiple=True, metavar="UID", help="Series Instance UID; may be repeated.")
@click.option("--instance", "instances", multiple=True, metavar="UID", help="SOP Instance UID; may be repeated.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder to write to, default here."
)
@archive_options()
@json_option
@click.pass_obj
def get(
    chosen: Chosen, studies: tuple[str, ...], series: tuple[str, ...], instances: tuple[str, ...], out: Path
) -> None:
    """Write objects as Part 10 files into a folder, by study, series or instance UID."""
    keys = {_STUDY: studies, _SERIES: series, _INSTANCE: instances}
    wanted = {tag: tuple(u.strip() for u in uids) for tag, uids in keys.items() if uids}
    if not wanted:
        raise click.UsageError("Give at least one --study, --series or --instance.")
    failed: list[tuple[str, CofferError]] = []
    files = []
    with chosen.open() as engine:
        from server.dimse.services import Caller
        from server.export import Exporter

        found = engine.retriever.instances(wanted, Caller(calling_ae=engine.config.dimse.ae_title))
        if not found:
            raise NotFoundError("the archive has no such object", hint="`coffer find` lists what it has")
        exporter = Exporter(out)
        with output.progress("writing", len(found), hidden=chosen.json) as bar:
            for instance in found:
                try:
                    files.append(exporter.write(instance))
                except CofferError as error:
                    failed.append((instance.sop_instance, error))
                bar.advance()
    written = [f for f in files if not f.existed]
    told = {
        "written": len(written),
        "existed": len(files) - len(written),
        "failed": [{"instance": uid, "reason": str(cause)} for uid, cause in failed],
        "bytes": sum(f.size for f in written),
        "folder": str(out),
    }
    if chosen.json:
        output.as_json({**told, "files": [str(f.path) for f in files]})
    else:
        output.say(f"{len(written)} written to {out}, {told['existed']} were there, {len(failed)} failed")
        for uid, cause in failed:
            output.say(f"    {output.plain(uid)}: {output.plain(str(cause))}")
    if failed:
        raise failed[0][1]
