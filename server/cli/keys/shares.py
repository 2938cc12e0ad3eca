"""`coffer keys split`, `recover` and `drill`: the key split among people, and recovered by some of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.keys.crypto.shamir import Recovered
    from coffer.keys.errors import CofferError
    from coffer.keys.shares.recovery import RecoveryProof

_SHARES = click.option(
    "--share",
    "shares",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    required=True,
    help="A file with one share; repeat it for each.",
)
_OFFICER = click.option("--officer", metavar="NAME", help="Who does this.  [default: the account]")


@click.command(
    epilog="""\b
Examples:
  coffer keys split -n 5 -k 3 -o /media/stick/shares
  coffer keys split -n 3 -k 2 -o shares --json

\b
Writes N text files into a new folder, all or none. Print each, or copy it to a USB stick of its own, give each to a
different person, then destroy the folder. Works beside a running server, and is recorded in the log.
Shares are valid for the current key epoch only: split again after each rotation. `coffer keys list` shows which are
stale. If it is interrupted, run the same command again: it finishes, and leaves no share that is not recorded."""
)
@click.option("-n", "--shares", "count", type=click.IntRange(2, 16), required=True, help="How many shares to make.")
@click.option("-k", "--needed", "threshold", type=click.IntRange(2, 16), required=True, help="How many yield the key.")
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), required=True, help="A folder that does not exist yet."
)
@_OFFICER
@archive_options()
@json_option
@click.pass_obj
def split(chosen: Chosen, count: int, threshold: int, folder: Path, officer: str | None) -> None:
    """Split the current epoch's key into N shares, any K of which open the archive without its key provider."""
    admitted = chosen.existing(Action.SPLIT, officer)
    config = admitted.config
    from coffer.server.keyops.share_files import split_key

    made = split_key(config, threshold, count, folder, admitted.principal)
    of = made.of
    if chosen.json:
        result = {"group": of.group.hex(), "epoch": of.epoch, "shares": count, "needed": threshold}
        output.as_json({**result, "resumed": made.resumed, "files": list(made.shares)})
        return
    if made.resumed:
        output.say("An earlier run wrote them already; nothing new was made.")
    output.say(f"{count} shares of key epoch {of.epoch}, any {threshold} yield the key, group {of.group.hex()}:")
    for path in made.shares:
        output.say(f"  {path}")
    output.say()
    output.say("Give each to a different person, then destroy this folder: anyone who has it has the key.")
    output.say("Try them now: coffer keys drill --share FILE --share FILE ...")


@click.command(
    epilog="""\b
Examples:
  coffer keys drill --share anna.txt --share ben.txt --share carla.txt

\b
Needs neither key file nor HSM, changes nothing, and works beside a running server. The log records the drill. Run it
once a month, with different people each time. Exit code 12: a share is damaged, missing or of another group; 8: another
archive or key; 9: the epoch was destroyed on purpose."""
)
@_SHARES
@_OFFICER
@archive_options()
@json_option
@click.pass_obj
def drill(chosen: Chosen, shares: tuple[Path, ...], officer: str | None) -> None:
    """Prove that these shares would recover the archive's key, without changing anything."""
    admitted = chosen.existing(Action.DRILL, officer)
    config = admitted.config
    from coffer.server.keyops.share_recovery import drill as run
    from coffer.server.keyops.share_recovery import read_shares

    who, recovered = admitted.principal, read_shares(shares)
    with output.progress("opening every key", hidden=chosen.json) as bar:
        proof, unrecorded = run(config, recovered, who, bar.advance)
    if chosen.json:
        output.as_json({**_facts(recovered, proof), "recorded": unrecorded is None})
        return
    _say(recovered, proof)
    output.say("Nothing was changed. The drill succeeded." if proof.archive else "Nothing was changed.")
    _say_unrecorded(unrecorded)


@click.command(
    epilog="""\b
Examples:
  coffer keys recover --share anna.txt --share ben.txt --share carla.txt
  coffer keys recover --share a.txt --share b.txt --key-file /etc/coffer/new.key

\b
Proves the key first. Then writes the key file (or uses it, if it exists), which keeps the epoch in place of the
provider that was lost. Safe to interrupt and to repeat. A server that still runs continues with the key in its memory
and finds the new key file by itself, if [keys] key_file names it."""
)
@_SHARES
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key file to write.  [default: [keys] key_file]",
)
@_OFFICER
@archive_options()
@json_option
@click.pass_obj
def recover(chosen: Chosen, shares: tuple[Path, ...], key_file: Path | None, officer: str | None) -> None:
    """Recover an archive whose key provider is lost: write a new key file from shares."""
    admitted = chosen.existing(Action.RECOVER_KEY, officer)
    config = admitted.config
    from coffer.server.keyops.share_recovery import read_shares
    from coffer.server.keyops.share_recovery import recover as run

    who, recovered = admitted.principal, read_shares(shares)
    target = (key_file or config.keys.key_file).absolute()
    with output.progress("opening every key", hidden=chosen.json) as bar:
        proof = run(config, recovered, target, who, bar.advance)
    if chosen.json:
        output.as_json({**_facts(recovered, proof), "key_file": target})
        return
    _say(recovered, proof)
    output.say(f"Key epoch {proof.epoch} is now kept by the key file {target}.")
    output.say()
    if target != config.keys.key_file:
        output.say(f'Set in coffer.toml: [keys] key_file = "{target}"')
    if config.keys.provider != "file":
        output.say(f'New epochs still go to {config.keys.provider}: repair it, or set [keys] provider = "file".')
    output.say(f"Now: coffer keys rotate, then coffer keys destroy {proof.epoch}: these shares were in one place.")
    output.say(
        "Then copy the key file to a safe place, and split again. The previous provider still opens older copies of"
    )
    output.say(f"the keyring: it must give a receipt when epoch {proof.epoch} is destroyed.")


@click.command(
    epilog="""\b
Examples:
  coffer keys burn 5f1c0a77a52688ed 1 2 3 --officer Meyer --reason 'in the shredder on 2026-11-30'

\b
GROUP and number are printed on each share; `coffer keys list` shows the groups. As long as enough shares of an old
epoch exist, they open, together with an old copy of the keyring, what was erased in it, and the erasure is not
complete. Coffer cannot verify that paper burned: it records your statement, with your name, in the log and on
certificates. Works beside a running server. Exit code 5 for a group that never existed, 12 for a number that no share
of it has."""
)
@click.argument("group")
@click.argument("numbers", type=click.IntRange(1, 16), nargs=-1, required=True)
@click.option("--reason", default="", metavar="TEXT", help="How. It is kept for good.")
@_OFFICER
@archive_options()
@json_option
@click.pass_obj
def burn(chosen: Chosen, group: str, numbers: tuple[int, ...], reason: str, officer: str | None) -> None:
    """State that shares of a group were collected and burned, by their numbers."""
    admitted = chosen.existing(Action.BURN, officer)
    config = admitted.config
    from coffer.server.keyops.share_files import burn_shares

    of, burned = burn_shares(config, group, numbers, admitted.principal, reason)
    left = burned.left(of)
    if chosen.json:
        result = {"group": of.group.hex(), "epoch": of.epoch, "shares": of.count, "needed": of.threshold}
        output.as_json({**result, "left": left, "opens": left >= of.threshold})
        return
    output.say(f"Group {of.group.hex()}, epoch {of.epoch}: {of.count - left} of {of.count} shares are burned.")
    output.say(
        f"{left} are left, and {of.threshold} yield the key: burn {left - of.threshold + 1} more."
        if left >= of.threshold
        else "Those that are left do not yield the key."
    )


def _facts(recovered: Recovered, proof: RecoveryProof) -> dict[str, Any]:
    of = recovered.of
    return {
        "group": of.group.hex(),
        "epoch": proof.epoch,
        "current_epoch": proof.current,
        "archive_key_opened": proof.archive,
        "study_keys_opened": proof.opened,
        "study_keys": proof.studies,
        "wrong_shares": list(recovered.wrong),
    }


def _say(recovered: Recovered, proof: RecoveryProof) -> None:
    of = recovered.of
    for name in recovered.wrong:
        output.say(f"warning: {output.plain(name)} was altered; the others were enough without it")
    output.say(f"Group {of.group.hex()}: the shares yield the key of epoch {proof.epoch}.")
    opened = f"{proof.opened} of {proof.studies} study keys"
    output.say(f"It opens the archive's own key and {opened}." if proof.archive else f"It opens {opened}.")
    if proof.epoch != proof.current:
        output.say(f"warning: a rotation to epoch {proof.current} is under way: finish it, then split again")


def _say_unrecorded(why: CofferError | None) -> None:
    if why is not None:
        output.say(f"warning: it is not recorded in the log: {why}")
