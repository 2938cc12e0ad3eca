"""`coffer get`: write stored objects as Part 10 files into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coffer.keys.errors import CofferError, NotFoundError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.server.services.exporting import Written
    from coffer.server.services.retrieve import StoredInstance

_STUDY, _SERIES, _INSTANCE = 0x0020000D, 0x0020000E, 0x00080018


@click.command(
    epilog="""\b
Examples:
  coffer get --study 1.2.840.99999.1 --out ./out
  coffer get --study 1.2.840.99999.1 --series 1.2.840.99999.1.2
  coffer get --instance 1.2.840.99999.1.2.3 --out ./out
  coffer get --instance 1.2.840.99999.1.2.3 --version 1 --out ./out

\b
Files are named STUDY/SERIES/INSTANCE.dcm after their UIDs, with --version INSTANCE.version-1.dcm. A UID with other
characters than digits and dots is replaced by study-, series- or instance- and a hash. An existing file is never
changed: if it has the same data set, the object counts as existing, otherwise it is written as INSTANCE.other-2.dcm.
The data set in each file is, bit for bit, the one that was received. Of several versions of an instance, the served
one is written, or the one given by --version (`coffer versions` lists them; if several studies or series have the UID,
give --study or --series too). The files are not encrypted: the archive no longer protects them."""
)
@click.option("--study", "studies", multiple=True, metavar="UID", help="Study Instance UID; may be repeated.")
@click.option("--series", multiple=True, metavar="UID", help="Series Instance UID; may be repeated.")
@click.option("--instance", "instances", multiple=True, metavar="UID", help="SOP Instance UID; may be repeated.")
@click.option("--version", "number", type=click.IntRange(1), help="With one --instance: which of its versions.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to write to.  [default: the current one]",
)
@archive_options()
@json_option
@click.pass_obj
def get(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    studies: tuple[str, ...],
    series: tuple[str, ...],
    instances: tuple[str, ...],
    number: int | None,
    out: Path,
) -> None:
    """Write objects as Part 10 files into a folder, by study, series or instance UID."""
    keys = {_STUDY: studies, _SERIES: series, _INSTANCE: instances}
    wanted = {tag: tuple(u.strip() for u in uids) for tag, uids in keys.items() if uids}
    if not wanted:
        raise click.UsageError("Give at least one --study, --series or --instance.")
    if number is not None and len(instances) != 1:
        raise click.UsageError("--version goes with one --instance.")
    admitted = chosen.existing(Action.EXPORT)
    with admitted.open_reading() as archive:
        from coffer.server.services.retrieve import Retriever
        from coffer.server.services.versions import WHERE_TO_LOOK, one_version

        caller = admitted.principal
        found: Sequence[StoredInstance]
        if number is None:
            found = Retriever(archive).instances(wanted, caller)
        else:
            places = wanted.get(_STUDY, ()), wanted.get(_SERIES, ())
            found = [one_version(archive, wanted[_INSTANCE][0], number, caller, *places)]
        if not found:
            raise NotFoundError("the archive has no such object", hint=WHERE_TO_LOOK)
        files, failed = _write(found, out, number, as_json=chosen.json)
    _report(files, failed, out, as_json=chosen.json)
    if failed:
        raise failed[0][1]


def _write(
    found: Sequence[StoredInstance], out: Path, number: int | None, *, as_json: bool
) -> tuple[list[Written], list[tuple[str, CofferError]]]:
    """Write every object; one that cannot be written does not stop the others."""
    from coffer.server.services.exporting import Exporter

    exporter = Exporter(out)
    files: list[Written] = []
    failed: list[tuple[str, CofferError]] = []
    with output.progress("writing", len(found), hidden=as_json) as bar:
        for instance in found:
            try:
                files.append(exporter.write(instance, version=number))
            except CofferError as error:
                failed.append((instance.sop_instance, error))
            bar.advance()
    return files, failed


def _report(files: list[Written], failed: list[tuple[str, CofferError]], out: Path, *, as_json: bool) -> None:
    written = [f for f in files if not f.existed]
    existed = len(files) - len(written)
    if as_json:
        output.as_json(
            {
                "written": len(written),
                "existed": existed,
                "failed": [{"instance": uid, "reason": str(cause)} for uid, cause in failed],
                "bytes": sum(f.size for f in written),
                "folder": str(out),
                "files": [str(f.path) for f in files],
            }
        )
        return
    output.say(f"{len(written)} written to {out}, {existed} existed already, {len(failed)} failed")
    for uid, cause in failed:
        output.say(f"    {output.plain(uid)}: {output.plain(str(cause))}")
