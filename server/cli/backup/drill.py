"""`coffer backup drill`: prove that a snapshot can be restored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coffer.keys.errors import CofferError, ConfigError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.backup.places import NONE
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.server.backup.drill import DrillResult
    from coffer.server.config.settings import Config

_FINDINGS = 1


@click.command(
    epilog="""\b
Examples:
  coffer backup drill                                    5 % of the newest snapshot, without any key
  coffer backup drill --open -o drill-2026-12.note       restores the keyring too, opens what came, signs the result
  coffer backup drill latest /mnt/backup --keys /mnt/vault --open --identity meyer.identity

\b
Brings a share of the snapshot back from the target alone: the chain of every record, and some bodies in full, about
100 at least. With --open the copy of the keyring is restored to a temporary folder and opens them with your key
provider. The result is signed by the archive that is here, if its key is at hand; with --open it must be. It names no
patient. Exit code 0 if all of it came back, 1 with findings.""",
)
@click.argument("snapshot", default="latest")
@click.argument("target", required=False)
@click.option("--keys", metavar="TARGET", help="Where the copies of the keyring are.")
@click.option("--open", "opens", is_flag=True, help="Open what comes back, and sign the result.")
@click.option("--identity", type=click.Path(path_type=Path, dir_okay=False), help="Opens a sealed keyring.")
@click.option(
    "--sample", default=5.0, show_default=True, type=click.FloatRange(0, 100, min_open=True), metavar="PERCENT"
)
@click.option(
    "--seed", type=click.IntRange(0), default=None, help="Which share: the same seed selects the same records."
)
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the result to a file.")
@archive_options()
@json_option
@click.pass_obj
def drill(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    snapshot: str,
    target: str | None,
    keys: str | None,
    opens: bool,
    identity: Path | None,
    sample: float,
    seed: int | None,
    out: Path | None,
) -> None:
    """Bring back a share of SNAPSHOT from TARGET, and say what came."""
    config = chosen.admit(Action.REHEARSE).config
    from coffer.archive.copies.shelf import find_snapshot
    from coffer.server.backup.drill import Drill
    from coffer.server.backup.restoring import read_identity
    from coffer.server.backup.targets import open_target

    place, vault = target or config.backup.target, keys or config.backup.keys
    if not place:
        raise ConfigError("no target was given", hint="name one, or set it in the configuration: [backup] target")
    if opens and (not vault or vault == NONE):
        raise ConfigError("nobody said where the copies of the keyring are", hint="give --keys TARGET")
    shelf, found = find_snapshot(open_target(place), snapshot)
    with output.progress("restoring a share", hidden=chosen.json, in_bytes=True) as bar:
        work = Drill(
            config, shelf, found, open_target(vault) if opens else None,
            None if identity is None else read_identity(identity),
            lambda count: bar.advance(count, found.total_bytes),
        )  # fmt: skip
        done = work.run(sample / 100, seed if seed is not None else int.from_bytes(os.urandom(4), "big"))
    note, unsigned = _signed(config, done, required=opens)
    if out is not None:
        output.write_file(out, note)
    _say(chosen, done, out, unsigned)
    if done.findings or done.same is False:
        click.get_current_context().exit(_FINDINGS)


def _signed(config: Config, done: DrillResult, *, required: bool) -> tuple[bytes, str]:
    """The result as a note, and nothing; or the bare result, and why it is not signed, unless it is `required`."""
    from coffer.server.backup.drill import signed

    try:
        return signed(config, done), ""
    except CofferError as error:
        if required:
            raise
        return done.serialize(), str(error)


def _say(chosen: Chosen, done: DrillResult, out: Path | None, unsigned: str) -> None:
    if chosen.json:
        counts = {"records": done.records, "bodies": done.bodies, "opened": done.opened, "same": done.same}
        share = {"sample": done.sample, "seed": done.seed, "findings": list(done.findings)}
        result = {"signed": not unsigned, "result": None if out is None else str(out)}
        output.as_json({"snapshot": done.snapshot, **counts, **share, **result})
        return
    opened = "" if done.opened is None else f", {done.opened:,} of them opened"
    output.say(f"{done.snapshot}: the chain of {done.records:,} records, {done.bodies:,} bodies{opened}")
    output.say(f"--sample {done.sample * 100:g} --seed {done.seed}")
    for what in done.findings:
        output.say(output.plain(f"finding: {what}"))
    if done.same is False:
        output.say("finding: the archive here never signed this snapshot's checkpoint")
    if out is not None:
        output.say(
            f"result      {out}{f', not signed: {output.plain(unsigned)}' if unsigned else ', signed by the archive'}"
        )
