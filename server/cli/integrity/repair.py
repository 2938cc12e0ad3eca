"""`coffer repair`: repair damaged records from another copy of the archive. Needs no key."""

from __future__ import annotations

from pathlib import Path

import click

from coffer.keys.errors import CofferError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Admitted, Chosen, archive_options, json_option

_FINDINGS = 1


@click.command(
    epilog="""\b
Examples:
  coffer repair --from /mnt/backup/archive
  coffer repair --from /mnt/replica 4711 4712   these records only

\b
A record is taken from the copy only if the log then yields the root that was signed here; if both copies are damaged in
different places, the intact parts of each are combined. The damaged file is kept in lost+found, and a record of the
repair is written when the archive is next opened with its key. Stop the server first. Exit code 1 if findings
remain."""
)
@click.option(
    "--from", "copy", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A backup or replica of this archive.",
)  # fmt: skip
@click.argument("records", nargs=-1, type=click.IntRange(0))
@archive_options()
@json_option
@click.pass_obj
def repair(chosen: Chosen, copy: Path, records: tuple[int, ...]) -> None:
    """Repair what is damaged, or the given records, from a copy of the archive."""
    admitted = chosen.existing(Action.REPAIR)
    config = admitted.config
    from coffer.archive.repair.repair import repair as repair_from
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.store.segment_store import segment_numbers, total_bytes
    from coffer.archive.store.writer_lock import WriterLock
    from coffer.archive.verify.findings import FindingStore
    from coffer.keys.clock import clock_ms
    from coffer.server.anchor.mark_file import MarkFile
    from coffer.server.maintenance.offline import inspect_keyring

    folder, source = ArchiveFolder.open(config.archive), ArchiveFolder.open(copy)
    total, mark = total_bytes(folder.segment_store()), MarkFile.of(config, folder.archive_id).find()
    with WriterLock(folder.lock, "coffer repair", clock_ms()):
        folder.complete()
        with output.progress("looking for damage", hidden=chosen.json, in_bytes=True) as bar:
            report = repair_from(
                folder, source, only=set(records), remembered=inspect_keyring(folder).remembered,
                vkey=mark.vkey if mark else "",
                progress=lambda done: bar.advance(done, total),
            )  # fmt: skip
        FindingStore(folder.scrub).settle({0, *segment_numbers(folder.segment_store())}, report.remaining)
    recorded = _is_recorded(admitted) if report.repaired else True
    rows = [{"segment": m.segment, "records": m.records, "kept": m.kept} for m in report.repaired]
    left = [{"segment": f.segment, "offset": f.offset, "record": f.seq, "what": f.what} for f in report.remaining]
    if chosen.json:
        output.as_json(
            {
                "mended": rows,
                "checkpoint": report.checkpoint,
                "history": report.history,
                "recorded": recorded,
                "findings": left,
            }
        )
    else:
        for row in rows:
            kept = f", the damaged file is lost+found/{row['kept']}" if row["kept"] else ""
            output.say(f"segment {row['segment']}: records {_list(row['records'])} were repaired{kept}")
        if report.checkpoint:
            output.say("the signed checkpoint was restored, from the history here or from the copy")
        if report.history:
            output.say("the history of checkpoints was restored from the copy")
        for finding in left:
            output.say(output.plain(f"remaining: segment {finding['segment']}, {finding['what']}"))
        if not recorded:
            output.say("a record of it is written when the archive is next opened with its key")
        output.say(f"{len(left)} findings remain: coffer recover show lists other remedies" if left else "no findings")
    if left:
        click.get_current_context().exit(_FINDINGS)


def _is_recorded(admitted: Admitted) -> bool:
    """Open the archive once, which records the repair. Without a key, or if damage remains, that happens later."""
    try:
        with admitted.open_writer():
            return True
    except CofferError:
        return False


def _list(records: object) -> str:
    assert isinstance(records, tuple)
    return ", ".join(map(str, records)) if records else "none, but its header or footer"
