"""`coffer restore`: bring an archive back from a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coffer.keys.errors import ConfigError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.backup.places import NONE
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.copies.target import Target
    from coffer.server.backup.kept_settings import KeptFile
    from coffer.server.backup.restoring import Restored
    from coffer.server.backup.single_study import SingleStudy
    from coffer.server.config.settings import Config

_FINDINGS = 1


@click.command(
    epilog="""\b
Examples:
  coffer restore latest /srv/coffer --from /mnt/backup --keys /mnt/vault
  coffer restore 20261201t020000z-0123456789ab /srv/coffer              from the targets in the configuration
  coffer restore latest /srv/coffer --from /mnt/backup --no-keys        you put the keyring folder back yourself
  coffer restore latest /srv/coffer --identity meyer.identity           a keyring that is sealed to recipients
  coffer restore latest /tmp/then --at 2026-11-30T12:00                 as it was then, to read from
  coffer restore latest /tmp/files --study 1.2.840.99999.1              one study, as files

\b
INTO must not exist or be empty. If it is interrupted, give the same command again: it goes on. Everything is verified
at the end. Only the settings have no signature: they are written as coffer.toml.restored and users.toml.restored, which
nothing reads, and what differs from the defaults is printed. It needs no key, except the identity of a sealed keyring;
key file, HSM or shares come from where you keep them. With --study, INTO gets that study's objects as files, named as
by `coffer get`, opened with the keys of the archive here, or with the newest copy of the keyring if there is none;
nothing else is brought. That needs the right to export, too. Whoever writes to a restored archive decides first that it
is the newest: docs/operations/restore.md.
Exit code 0 if it is whole, 1 with findings.""",
)
@click.argument("snapshot")
@click.argument("into", type=click.Path(path_type=Path, file_okay=False))
@click.option("--from", "source", metavar="TARGET", help="Where the snapshots are.")
@click.option("--keys", metavar="TARGET", help="Where the copies of the keyring are.")
@click.option("--no-keys", is_flag=True, help="Do not restore the keyring.")
@click.option("--identity", type=click.Path(path_type=Path, dir_okay=False), help="Opens a sealed keyring.")
@click.option(
    "--at", type=click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]), help="The log as it was then, in UTC."
)
@click.option("--study", metavar="UID", default="", help="Write the objects of one study into INTO, as files.")
@click.option(
    "--settings",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Write settings here, not in force.",
)
@click.option("--vkey", metavar="KEY", default="", help="A verifier key of the archive that you kept elsewhere.")
@archive_options()
@json_option
@click.pass_obj
def restore(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    snapshot: str,
    into: Path,
    source: str | None,
    keys: str | None,
    no_keys: bool,
    identity: Path | None,
    at: object,
    study: str,
    settings: Path | None,
    vkey: str,
) -> None:
    """Restore SNAPSHOT (an id, or latest) into the folder INTO."""
    if study and (at is not None or no_keys or settings is not None):
        raise click.UsageError("--study goes with none of --at, --no-keys and --settings.")
    config = chosen.admit(Action.RESTORE).config
    from coffer.archive.copies.shelf import find_snapshot
    from coffer.server.backup.restoring import Restoring, read_identity
    from coffer.server.backup.single_study import SingleStudy
    from coffer.server.backup.targets import open_target

    place = source or config.backup.target
    if not place:
        raise ConfigError("no target was given", hint="give --from TARGET")
    who = None if identity is None else read_identity(identity)
    if study:
        officer = chosen.admit(Action.EXPORT).principal.officer
        vault_place = keys or config.backup.keys
        vault = open_target(vault_place) if vault_place not in {"", NONE} else None
        shelf, found = find_snapshot(open_target(place), snapshot)
        _one_study(chosen, SingleStudy(config, shelf, found, into.absolute(), officer, vault, who, vkey), study)
        return
    vault = _vault(config, keys, no_keys=no_keys)
    shelf, found = find_snapshot(open_target(place), snapshot)
    with output.progress("restoring", hidden=chosen.json, in_bytes=True) as bar:
        total = 2 * found.total_bytes  # brought, and verified
        work = Restoring(
            config, shelf, found, into.absolute(), vault, who, vkey, lambda count: bar.advance(count, total)
        )
        done = work.run(_ms(at))
    written = [] if settings is None else work.settings(settings)
    if chosen.json:
        output.as_json(
            {
                "snapshot": found.id,
                "archive": str(into),
                **_facts(done),
                "settings": [{"file": str(each.path), "differs": list(each.differs)} for each in written],
            }
        )
    else:
        _say(done, into, written)
    if done.findings:
        click.get_current_context().exit(_FINDINGS)


def _one_study(chosen: Chosen, work: SingleStudy, study_uid: str) -> None:
    with output.progress("looking for it", hidden=chosen.json) as bar:
        work.progress = bar.reach
        done = work.run(study_uid.strip())
    existed = sum(each.existed for each in done.files)
    if chosen.json:
        output.as_json(
            {
                "snapshot": work.snapshot.id,
                "folder": str(work.into),
                "written": len(done.files) - existed,
                "existed": existed,
                "failed": [{"instance": uid, "reason": str(cause)} for uid, cause in done.failed],
                "recorded": done.recorded,
            }
        )
    else:
        output.say(
            f"{len(done.files) - existed} written to {work.into}, {existed} existed already, {len(done.failed)} failed"
        )
        for uid, cause in done.failed:
            output.say(f"    {output.plain(uid)}: {output.plain(str(cause))}")
        if not done.recorded:
            output.say("It is recorded nowhere: the archive of this snapshot is not here.")
        output.say("The files are not encrypted. coffer put stores them again where they are missing.")
    if done.failed:
        raise done.failed[0][1]


def _vault(config: Config, given: str | None, *, no_keys: bool) -> Target | None:
    from coffer.server.backup.targets import open_target

    place = NONE if no_keys else given or config.backup.keys
    if not place:
        raise ConfigError(
            "nobody said where the copy of the keyring is",
            hint="give --keys TARGET; or --no-keys, and put the keyring folder back yourself",
        )
    return None if place == NONE else open_target(place)


def _ms(at: object) -> int | None:
    from datetime import UTC, datetime

    return int(at.replace(tzinfo=UTC).timestamp() * 1000) if isinstance(at, datetime) else None


def _facts(done: Restored) -> dict[str, object]:
    return {
        "records": done.checkpoint.size,
        "root": done.checkpoint.root.hex(),
        "taken": done.taken,
        "kept": done.kept,
        "keyring": None if done.keyring is None else done.keyring.id,
        "anchored": done.anchored,
        "marked": done.marked,
        "findings": list(done.findings),
    }


def _say(done: Restored, into: Path, written: list[KeptFile]) -> None:
    size = done.checkpoint.size
    kept = f", {output.size(done.kept)} were here already" if done.kept else ""
    output.say(f"restored {size:,} records into {into}: {output.size(done.taken)} from the target{kept}")
    for what in done.findings:
        output.say(output.plain(f"finding: {what}"))
    if not done.findings:
        by = "" if done.anchored else "; consistent with itself, not checked against any key from outside"
        output.say(f"every byte is verified{by}")
    for each in written:
        output.say(f"settings    {each.path}, not in force; what differs from the defaults:")
        for line in each.differs:
            output.say(output.plain(f"    {line}"))
    if written:
        output.warn(
            "nobody signed these settings: whoever can write the target may have written them",
            "read each line, then give the file the name without .restored",
        )
    if done.keyring is None:
        output.warn("no keyring was restored", f"put the newest copy of the keyring folder there: {into / 'keyring'}")
    if done.marked is not None and done.marked > size:
        output.say(f"The mark of this host names {done.marked:,} records: {done.marked - size:,} are missing here.")
        output.say(f"Nothing is written until you decide: coffer --archive {into} recover show")
    else:
        output.say(f"Next: coffer --archive {into} index rebuild, then coffer --archive {into} serve")
    output.say("docs/operations/restore.md says what to do before the PACS sends to it again.")
