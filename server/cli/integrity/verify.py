"""`coffer verify`: read every byte of the log and report what is not as it was written."""

from __future__ import annotations

import os
import re
import time
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import InputError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.tree.checkpoint import Checkpoint
    from coffer.archive.verify.verify import Finding, Options, Verifier
    from coffer.server.anchor.trust import Outside
    from coffer.server.config.settings import Config

_FINDINGS, UNANCHORED = 1, 17  # exit codes
_BY_ITSELF = "consistent with itself; not checked against any key from outside"
_SMALL = 256 << 20  # below this, starting processes costs more than they save
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)%?")


def _share(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    found = _PERCENT.fullmatch(value)
    if found is None or not 0 < float(found[1]) <= 100:
        raise click.BadParameter("give a share such as 5% or 0.5%")
    return float(found[1]) / 100


@click.command(
    epilog="""\b
Examples:
  coffer verify
  coffer verify --archive /mnt/backup --copy    a backup, without its key file; it may be older than the mark
  coffer verify --level headers            the chain and the checkpoint only: quick
  coffer verify --level decrypt            open every object too: needs the key file
  coffer verify --since last-week.note     only what was added after a checkpoint that was kept
  coffer verify --vkey "$(cat vkey.txt)"     by the verifier key that coffer init printed
  coffer verify --sample 5%                every header, and the bodies of 5 % of the records
  coffer verify --json-lines | jq .what

\b
Exit code 0 if everything is as it was written, 1 with findings, each with segment, offset and record; 17 if there is no
finding, but nothing from outside the folder either to compare with: no verifier key was given, configured
(integrity.vkey) or kept in the mark. Any other means that the verification could not be done. It runs beside a server;
what is written while it runs is not checked. Objects whose key was destroyed on purpose are counted and are not
findings. docs/integrity.md describes what to do."""
)
@click.option(
    "--level",
    type=click.Choice(["headers", "bodies", "decrypt"]),
    default="bodies",
    show_default=True,
    help="The chain of record headers only; every byte; or every object opened and its content checked.",
)
@click.option("--since", metavar="CHECKPOINT", help="A file with a signed checkpoint, or a number of records.")
@click.option("--sample", default="100%", show_default=True, callback=_share, help="Share of the bodies to read.")
@click.option(
    "--seed", type=click.IntRange(0), default=None, help="Which share: the same seed selects the same records."
)
@click.option("--jobs", type=click.IntRange(1, 64), default=None, help="Processes.  [default: cores, at most 4]")
@click.option(
    "--json-lines", is_flag=True, help="Print each finding as a line of JSON when it is found, and a summary last."
)
@click.option("--vkey", metavar="KEY", default="", help="A verifier key of the archive that you kept elsewhere.")
@click.option("--copy", "is_copy", is_flag=True, help="A copy, which may be older than the mark outside the folder.")
@archive_options()
@json_option
@click.pass_obj
def verify(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    level: str,
    since: str | None,
    sample: float,
    seed: int | None,
    jobs: int | None,
    json_lines: bool,
    vkey: str,
    is_copy: bool,
) -> None:
    """Check hash chain, hashes, checkpoint and every byte between, without any key."""
    config = chosen.existing(Action.VERIFY).config
    from coffer.archive.repair.planted import planted
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.store.segment_store import total_bytes
    from coffer.archive.verify.verify import Options, Verifier, VerifyLevel
    from coffer.server.anchor.trust import Outside
    from coffer.server.maintenance.deep_check import open_records
    from coffer.server.maintenance.keyed_check import inspect_with_keys
    from coffer.server.maintenance.offline import inspect_index, inspect_keyring
    from coffer.server.maintenance.version_order import VersionOrder

    folder = ArchiveFolder.open(config.archive)
    total, depth = total_bytes(folder.segment_store()), VerifyLevel[level.upper()]
    if sample < 1 and depth is VerifyLevel.HEADERS:
        raise click.UsageError("--sample is a share of the bodies: choose --level bodies or decrypt")
    seed = seed if seed is not None else int.from_bytes(os.urandom(4), "big")
    options = Options(depth, _start(since, folder), sample, seed, jobs or _jobs_for(total))
    started, outside, findings = time.monotonic(), Outside.of(config, folder, vkey), []
    with output.progress("verifying", hidden=chosen.json or json_lines, in_bytes=True) as bar:
        seen = inspect_keyring(folder)
        verifier = Verifier(
            folder,
            options,
            open_records=partial(open_records, config),
            comparison=VersionOrder() if depth is VerifyLevel.DECRYPT else None,
            remembered=seen.remembered,
            outside=None if is_copy else outside.mark,
            outside_now=lambda: Outside.of(config, folder).mark,
            progress=lambda done: bar.advance(done, total),
        )
        rows = inspect_index(folder) if depth is not VerifyLevel.HEADERS else []
        keys = _of_keys(config, folder, outside, compares=not is_copy and depth is not VerifyLevel.DECRYPT)
        keyed = inspect_with_keys(config, rows=seen.readable and not rows) if depth is VerifyLevel.DECRYPT else []
        for finding in chain(keys, planted(folder), dict.fromkeys([*seen.findings, *keyed]), rows, verifier.findings()):
            findings.append(finding)
            if json_lines:
                output.as_json(_row(finding))
            elif not chosen.json:
                output.say(output.plain(_line(finding, folder)))
    summary = {**_summary(config, options, verifier, total, time.monotonic() - started), **_trust(outside)}
    if json_lines:
        output.as_json({**summary, "findings": len(findings)})
    elif chosen.json:
        output.as_json({**summary, "findings": [_row(f) for f in findings]})
    else:
        _say(summary, len(findings), is_sample=sample < 1)
    if findings or not outside.keys:
        click.get_current_context().exit(_FINDINGS if findings else UNANCHORED)


def _of_keys(config: Config, folder: ArchiveFolder, outside: Outside, *, compares: bool) -> list[Finding]:
    """What contradicts the verifier keys from outside; with `compares` also whether the endorsements end with a signing
    key that only a copy of the archive has."""
    from coffer.archive.verify.verify import Finding
    from coffer.server.maintenance.offline import marked_successor

    foreign = marked_successor(config, folder) if compares else None
    found = [*outside.contradictions(folder), *([] if foreign is None else [str(foreign)])]
    return [Finding(0, 0, None, what) for what in found]


def _jobs_for(total: int) -> int:
    """How many processes share so many bytes."""
    return min(os.cpu_count() or 1, 4) if total > _SMALL else 1


def _start(since: str | None, folder: ArchiveFolder) -> Checkpoint | int | None:
    """The value of --since: a number of records, or a checkpoint that this archive signed. Raises InputError."""
    from coffer.archive.tree.checkpoint import open_checkpoint

    if since is None or (since.isascii() and since.isdigit()):
        return None if since is None else int(since)
    try:
        note = Path(since).read_bytes()
    except OSError as error:
        raise InputError(
            f"{since} cannot be read: {error.strerror}", hint="give a file with a signed checkpoint, or a number"
        ) from error
    return open_checkpoint(note, folder)


def _summary(config: Config, options: Options, verifier: Verifier, total: int, seconds: float) -> dict[str, Any]:
    counts = verifier.summary
    names = ("segments", "records", "first_record", "signed_records", "bodies", "opened", "shredded", "superseded")
    return {
        "archive": str(config.archive),
        "level": options.level.name.lower(),
        "bytes": total,
        "seconds": round(seconds, 3),
        **{name: getattr(counts, name) for name in names},
        "sample": options.sample,
        "seed": options.seed,
        "rows_with_key": options.level.name == "DECRYPT",
    }


def _trust(outside: Outside) -> dict[str, Any]:
    """The key from outside that was used, where it came from, and what is wrong with that."""
    first = outside.keys[0] if outside.keys else None
    used = {"vkey": first.vkey, "vkey_from": first.source} if first else {"vkey": None, "vkey_from": None}
    return {**used, "degraded": list(outside.concerns)}


def _say(summary: dict[str, Any], findings: int, *, is_sample: bool) -> None:
    line = f"{summary['records']} records, {output.size(summary['bytes'])}, {summary['seconds']:.1f} s"
    if is_sample:
        share = f"--sample {summary['sample']:.4%} --seed {summary['seed']}"
        line += f", of which {summary['bodies']} bodies were read ({share})"
    if summary["first_record"]:
        line += f", from record {summary['first_record']} on"
    if summary["level"] == "decrypt":
        line += f", {summary['opened']} opened, {summary['shredded']} whose key was destroyed"
        line += f", {summary['superseded']} superseded by a rekey" if summary["superseded"] else ""
    output.say(f"{line}: {f'{findings} findings' if findings else 'no findings'}")
    by = f"verifier key of {summary['vkey_from']}: {summary['vkey']}" if summary["vkey"] else _BY_ITSELF
    output.say(output.plain(by))
    for concern in summary["degraded"]:
        output.say(output.plain(f"degraded: {concern}"))
    if not summary["rows_with_key"]:
        output.say("rows of keyring and index were not checked with a key: --level decrypt does that")


def _row(finding: Finding) -> dict[str, Any]:
    return {"segment": finding.segment, "offset": finding.offset, "record": finding.seq, "what": finding.what}


def _line(finding: Finding, folder: ArchiveFolder) -> str:
    where = f"{folder.segment_files.name(finding.segment)}, offset {finding.offset}" if finding.segment else "archive"
    record = "" if finding.seq is None else f", record {finding.seq}"
    return f"{where}{record}: {finding.what}"
