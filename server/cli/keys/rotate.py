"""`coffer keys rotate` and `destroy`: a new key over all study keys, and the end of an old one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coffer.keys.values.epoch import EpochState
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, confirm, json_option, officer_option

if TYPE_CHECKING:
    from coffer.server.keyops.epochs import EndedEpoch

_NO_RECEIPT = 6
_STATES = {EpochState.DESTROYED: "destroyed", EpochState.ABANDONED: "given up, NOT destroyed"}


@click.command(
    epilog="""\b
Examples:
  coffer keys rotate
  coffer keys rotate --officer Meyer --json
  coffer keys rotate --provider pkcs11

\b
Works beside a running server, while it stores and sends. If it is interrupted at any point, everything still opens; run
it again to resume it, which a running server does by itself. To move to another provider (HSM, AWS KMS), configure it,
keep the old one configured, restart the server, then name it with --provider, or set it as [keys] provider. An
interrupted rotation to another provider is finished first.
Exit code 7: another process is changing the keys; 11: the running server does not know the provider. Then nothing is
done."""
)
@click.option(
    "--provider",
    "kind",
    type=click.Choice(["file", "pkcs11", "aws-kms"]),
    help="Who keeps the new epoch's secret.  [default: as configured]",
)
@officer_option
@archive_options()
@json_option
@click.pass_obj
def rotate(chosen: Chosen, kind: str | None, officer: str | None) -> None:
    """Create a new key epoch and move every study's key under it; objects stay as they are."""
    admitted = chosen.existing(Action.ROTATE, officer)
    config = admitted.config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.keys.keyring.overview import overview
    from coffer.server.engine.providers import KINDS
    from coffer.server.keyops.epochs import rotate as run

    started = time.monotonic()
    with output.progress("moving keys", hidden=chosen.json) as bar:
        done = run(config, bar.reach, admitted.principal, kind or "")
    seconds = round(time.monotonic() - started, 1)
    stale = [g for g in overview(ArchiveFolder.open(config.archive).keyring).groups if g.epoch != done.epoch]
    if chosen.json:
        result = {"epoch": done.epoch, "provider": done.provider, "moved": done.rewrapped, "resumed": done.resumed}
        output.as_json({**result, "seconds": seconds, "stale_shares": [g.group.hex() for g in stale]})
        return
    how = "Resumed an interrupted rotation. " if done.resumed else ""
    output.say(f"{how}Epoch {done.epoch} ({done.provider}) is current; {done.rewrapped} study keys moved, {seconds} s.")
    if done.provider != KINDS[kind or config.keys.provider]:
        output.say(f"New epochs go to {config.keys.provider}: to move there, run coffer keys rotate again.")
    output.say("Back up what the provider keeps again: a key file has changed. If shreds are scheduled, first run")
    output.say("coffer shred finish --destroy: until then the key file contains what that destroys.")
    for group in stale:
        output.say(
            f"The {group.count} shares of group {group.group.hex()} are stale: collect and burn them. Then:"
            f" coffer keys split -n {group.count} -k {group.threshold}"
        )
    output.say("An old copy of keyring and key file together still opens what was stored before.")


@click.command(
    epilog="""\b
Examples:
  coffer keys destroy 1 --officer Meyer
  coffer keys destroy 1 --yes --json
  coffer keys destroy 1 --provider-lost --reason 'HSM burnt on 2026-11-20'
  coffer keys destroy 1 --keys-of old-hsm.toml

\b
Afterwards no copy of the keyring from before the rotation opens anything, except with shares that were not burned,
which are named: burn them too. This makes erasures (`coffer shred`) effective, and old backups of keyring and key file
useless. It cannot be undone. Refused (exit code 11) for the current epoch and while study keys are under it. If it is
interrupted, run it again.
Everything that ever opened the epoch must give a receipt: also the HSM or key file that kept it before a recovery or a
move. Whatever gives none is named (exit code 6), and the epoch is not destroyed until it does: run the command again.
--keys-of names a configuration whose [keys] reach a provider that the archive's own no longer reach.
With --provider-lost, an epoch whose provider fails is given up: Coffer no longer asks for it. That secret is NOT
destroyed, and what was shredded under it stays `scheduled` until the provider is back and the command is run again."""
)
@click.argument("epoch", type=click.IntRange(min=1))
@click.option("--provider-lost", is_flag=True, help="Give the epoch up if its provider fails. Needs --reason.")
@click.option("--reason", default="", metavar="TEXT", help="Why the provider is lost. It is kept for good.")
@click.option(
    "--keys-of",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="A configuration whose [keys] say where to destroy.",
)
@officer_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@archive_options()
@json_option
@click.pass_obj
def destroy(  # noqa: PLR0917  one parameter for each option
    chosen: Chosen,
    epoch: int,
    provider_lost: bool,
    reason: str,
    keys_of: Path | None,
    officer: str | None,
    yes: bool,
) -> None:
    """Destroy the secret of an old key epoch for good."""
    if provider_lost != bool(reason.strip()):
        raise click.UsageError("Give --provider-lost and --reason together, or neither.")
    admitted = chosen.existing(Action.DESTROY_EPOCH, officer)
    config = admitted.config
    from coffer.server.config.load import load_config
    from coffer.server.keyops.epochs import destroy as run

    confirm(
        f"Destroy everything that opens epoch {epoch}? Old backups of the keyring then open only with shares", yes=yes
    )
    others = None if keys_of is None else load_config(keys_of, config.archive).keys
    ended = run(config, epoch, admitted.principal, reason.strip(), others)
    if chosen.json:
        output.as_json(_as_json(ended))
    else:
        _say(ended)
    if ended.missing and ended.state is not EpochState.ABANDONED:
        click.get_current_context().exit(_NO_RECEIPT)


def _as_json(ended: EndedEpoch) -> dict[str, object]:
    until = _until(ended)
    return {
        "epoch": ended.epoch,
        "provider": ended.provider,
        "destroyed": ended.is_destroyed,
        "can_be_taken_back_until": until or None,
        "still_to_do": "; ".join(each.caveat for each in ended.receipts) or ended.remark,
        "receipts": [str(each.keeper) for each in ended.receipts],
        "no_receipt": [f"{each.keeper}: {each.cause}" for each in ended.missing],
        "remark": ended.remark,
        "opened_by": list(ended.shares),
    }


def _until(ended: EndedEpoch) -> str:
    """Until when a provider can cancel the destruction, "" if none can."""
    from coffer.keys.clock import clock_ms

    is_over = ended.effective_ms is None or ended.effective_ms <= clock_ms()
    return "" if is_over else output.when(ended.effective_ms or 0)


def _say(ended: EndedEpoch) -> None:
    for each in ended.receipts:
        output.say(output.plain(f"Destroyed: {each.keeper}. Still to do: {each.caveat}."))
    for missing in ended.missing:
        output.say(output.plain(f"NOT destroyed: {missing.keeper}: {missing.cause}"))
        if hint := missing.cause.hint():
            output.say(output.plain(f"  {hint}"))
    output.say(f"Epoch {ended.epoch} is {_STATES.get(ended.state, 'NOT destroyed yet')} ({ended.provider}).")
    if until := _until(ended):
        output.say(f"It can be cancelled until {until}.")
    for group in ended.shares:
        output.say(output.plain(f"STILL OPENS IT, with an old copy of the keyring: {group}"))
    if ended.remark:
        output.say(output.plain(f"{ended.remark[0].upper()}{ended.remark[1:]}."))
