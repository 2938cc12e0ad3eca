"""`coffer keys`: which keys the archive has; never the keys themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from coffer.keys.values.epoch import EpochState
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.keys.audit import audit
from coffer.server.cli.keys.copies import copied, copies
from coffer.server.cli.keys.rekey import rekey
from coffer.server.cli.keys.rotate import destroy, rotate
from coffer.server.cli.keys.shares import burn, drill, recover, split
from coffer.server.cli.keys.signing import export, rotate_signing, signing_keys
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.keys.crypto.shamir import Group
    from coffer.keys.keyring.overview import EpochInfo, Overview

_DAY_MS: Final = 86_400_000


@click.group()
def keys() -> None:
    """List, rotate, split and recover the archive's keys.

    A command that changes them ends when the change is in the signed log. Exit code 6 with "not signed yet" says that
    it is made, and what completes it.
    """


for _command in (rotate, rekey, rotate_signing, destroy, audit, export, split, recover, drill, burn, copied, copies):
    keys.add_command(_command)


@keys.command(
    "list",
    epilog="""\b
Examples:
  coffer keys list
  coffer keys list --json

\b
Needs no key: it shows where the keys are when nothing opens them. An epoch is `active`, `leaving` during a rotation
from it, `retired`, `destroying`, `destroyed`, or `abandoned`: given up without its provider, not destroyed.""",
)
@archive_options()
@json_option
@click.pass_obj
def list_epochs(chosen: Chosen) -> None:
    """List the key epochs, with provider, state, age, study keys and shares of each, and the key that signs now."""
    config = chosen.existing(Action.INSPECT).config
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.keys.clock import clock_ms
    from coffer.keys.keyring.overview import overview

    folder, now = ArchiveFolder.open(config.archive), clock_ms()
    seen, signing = overview(folder.keyring), signing_keys(folder)["keys"][-1]
    rows = [_row(seen, each, now) for each in seen.epochs]
    if chosen.json:
        output.as_json({"epochs": rows, "signing_key": {**signing, "changing": seen.is_signing_key_changing}})
        return
    columns = [name for name in (rows[0] if rows else ["epoch"]) if name != "opened_by"]
    output.table(columns, ([_text(row[name]) for name in columns] for row in rows))
    output.say(f"Signing key {signing['generation']}, from {signing['from_records']} records on:")
    output.say(output.plain(signing["verifier_key"]))
    for line in _remarks(seen, now):
        output.say(line)


def _row(seen: Overview, of: EpochInfo, now: int) -> dict[str, Any]:
    groups = [each for each in seen.groups if each.epoch == of.epoch]
    return {
        "epoch": of.epoch,
        "provider": of.provider,
        "state": "leaving" if of.epoch in seen.partly_rotated else of.state.name.lower(),
        "created": output.when(of.created_ms),
        "age_days": round(max(0, now - of.created_ms) / _DAY_MS, 1),
        "study_keys": of.rows,
        "can_be_taken_back_until": output.when(of.gone_ms) if of.gone_ms is not None and of.gone_ms > now else None,
        "shares": [_in_words(each, seen) for each in groups],
        "opened_by": [str(each) for each in of.keepers if not each.is_ended],
    }


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)


def _remarks(seen: Overview, now: int) -> Iterator[str]:
    """Whatever is unfinished, one sentence each."""
    for each in seen.epochs:
        if each.epoch in seen.partly_rotated:
            how = (
                f"{seen.changing} is running" if seen.changing else "it was interrupted: coffer keys rotate resumes it"
            )
            yield (
                f"A rotation to epoch {seen.current} is not complete, {each.rows} study keys remain in epoch"
                f" {each.epoch}; {how}."
            )
        elif each.state is EpochState.DESTROYING:
            by = ", ".join(str(keeper) for keeper in each.keepers if not keeper.is_ended)
            yield f"Epoch {each.epoch} is not destroyed yet, {by} gave no receipt: coffer keys destroy {each.epoch}"
        elif each.state is EpochState.ABANDONED:
            yield (
                f"Epoch {each.epoch} was given up without its provider, and is NOT destroyed: what was shredded under"
                f" it stays scheduled. When the provider is back: coffer keys destroy {each.epoch}"
            )
        elif each.gone_ms is not None and each.gone_ms > now:
            yield (
                f"Epoch {each.epoch} is scheduled for deletion: until {output.when(each.gone_ms)} {each.provider} can"
                " cancel it."
            )
    if seen.groups and all(each.epoch != seen.current for each in seen.groups):
        stale = f"The shares are stale: none yields the key of epoch {seen.current}"
        yield f"{stale}. Split again: coffer keys split -n N -k K -o FOLDER"
    if seen.is_signing_key_changing:
        resume = "coffer keys rotate-signing --reason TEXT resumes it"
        yield f"A rotation of the signing key is not complete. Interrupted? {resume}."
    if seen.unfinished:
        yield "A split was interrupted before its shares were complete: run the same `coffer keys split` again."


def _in_words(of: Group, seen: Overview) -> str:
    """A group of shares in a few words."""
    state = " (unfinished)" if of.group in seen.unfinished else ""
    if burned := seen.burned.get(of.group):
        state += f" ({of.count - burned.left(of)} burned)"
    return f"{of.threshold} of {of.count}, group {of.group.hex()}{state}"
