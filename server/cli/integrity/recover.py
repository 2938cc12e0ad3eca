"""`coffer recover`: when the log, its signed checkpoint and the keyring contradict each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import HistoryError, InputError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.repair.divergence import Divergence
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.server.engine.rollback import LostHold

_DIVERGED = 1


@click.group()
def recover() -> None:
    """Decide what to do with an archive that was rolled back, forked or cut. Nothing happens automatically."""


@recover.command(
    epilog="""\b
Examples:
  coffer recover show
  coffer recover show --json | jq .missing

\b
Needs no key, changes nothing and works beside a server, whose own objection it tells; with the key it finds more of
what an older keyring lacks, and names its holds. Exit code 0 if the three agree, 1 if they do not."""
)
@archive_options()
@json_option
@click.pass_obj
def show(chosen: Chosen) -> None:
    """Show what the log contains, what was signed, what the keyring remembers, and the remedies."""
    config = chosen.existing(Action.INSPECT).config
    from coffer.archive.repair.divergence import find_divergence
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.server.anchor.mark_file import MarkFile
    from coffer.server.host.control import objection as objection_of_server
    from coffer.server.maintenance.offline import (
        foreign_successor,
        inspect_keyring,
        lost_holds,
        objection_of,
        older_keyring,
    )

    folder = ArchiveFolder.open(config.archive)
    mark, seen = MarkFile.of(config, folder.archive_id).find(), inspect_keyring(folder)
    objection = seen.objection or objection_of(mark, folder) or foreign_successor(config, folder)
    objection = objection or older_keyring(config, mark)
    if objection is None and isinstance(refused := objection_of_server(config.archive, "store"), HistoryError):
        objection = refused  # it saw what is past: the keyring as it is may agree with the log
    history = find_divergence(folder, seen.remembered, objection, mark)
    lost = () if history.complaint is None else lost_holds(config)
    if chosen.json:
        output.as_json(_as_json(history) | {"lost_holds": None if lost is None else [_fields(each) for each in lost]})
    else:
        _say(history)
        _say_lost(lost)
        _say_remedies(history, None if seen.is_usable else folder)
    if history.complaint is not None:
        click.get_current_context().exit(_DIVERGED)


@recover.command(
    "from",
    epilog="""\b
Examples:
  coffer recover from /mnt/backup/archive
  coffer recover from /mnt/other-host/archive --lineage 4f0c...

\b
The copy is trusted only as far as it is proved: it must be of this archive, whole, and yield every root that was
signed here. What it has beyond that must be of the lineage that the mark names: a copy that was opened and written to,
as in a restore drill, is refused, with the lineage that --lineage has to name if it is to be taken all the same; the
record in the log then says so. Replaced segments are kept in lost+found. The mark outside the folder is made anew.
Stop the server first and start it afterwards. A record in the log says what was found and what was taken.""",
)
@click.argument("copy", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--lineage",
    metavar="HEX",
    default="",
    help="Take also what was written under this lineage, which the archive does not know, as the refusal names it.",
)
@archive_options()
@json_option
@click.pass_obj
def take(chosen: Chosen, copy: Path, lineage: str) -> None:
    """Take the records that are missing, or differ, from a copy of the archive."""
    admitted = chosen.existing(Action.RECOVER)
    config = admitted.config
    from coffer.archive.repair.divergence import find_divergence, take_from
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.store.segment_store import total_bytes
    from coffer.server.maintenance.offline import offline_session, require_newest_keyring, settle_findings

    source, named = ArchiveFolder.open(copy), _lineage_of(lineage)
    total = total_bytes(source.segment_store())
    with offline_session(config, "coffer recover from") as hand:
        require_newest_keyring(hand.keyring, source)
        history = find_divergence(hand.folder, hand.remembered, hand.objection, hand.outside)
        hand.shred_again(history.size)
        with output.progress("verifying the copy", hidden=chosen.json, in_bytes=True) as bar:
            numbers = take_from(
                hand.folder,
                history,
                source,
                hand.signer,
                hand.keyring.remember_checkpoint,
                outside=hand.outside,
                lineage=named,
                progress=lambda done: bar.advance(done, total),
            )
    with admitted.open_past_mark() if numbers else admitted.open_writer() as archive:
        if numbers and hand.outside is not None:
            archive.renew_mark(
                f"coffer recover from{' --lineage ' * bool(lineage)}{lineage}", admitted.principal.officer
            )
        records = archive.log.next_seq
        settle_findings(archive)
    if chosen.json:
        output.as_json({"segments": numbers, "records": records})
    elif numbers:
        output.say(f"{len(numbers)} segments were taken from the copy; the log has {records} records and is writable")
    else:
        output.say("the copy has nothing that is missing here")


@recover.command(
    epilog="""\b
Examples:
  coffer recover show                   prints how many records are left
  coffer recover accept-loss --to 4711

\b
Names the holds that the log records and the keyring lacks: they have no effect any more and must be added again.
Everything after the first break is moved to lost+found, with the checkpoints that it contradicts. A record in the log
and a new checkpoint say what was lost: anyone who kept an old checkpoint will see that the histories differ. The mark
outside the folder is made anew. Stop the server first. If there is a backup or a replica, use `coffer recover from`
instead."""
)
@click.option(
    "--to", "size", type=click.IntRange(0), required=True, help="How many records are left, as `show` prints it."
)
@archive_options()
@json_option
@click.pass_obj
def accept_loss(chosen: Chosen, size: int) -> None:
    """Continue with the log as it is, and sign that the rest is lost."""
    admitted = chosen.existing(Action.ACCEPT_LOSS)
    config = admitted.config
    from coffer.archive.repair.divergence import accept_loss as accept
    from coffer.archive.repair.divergence import find_divergence
    from coffer.server.maintenance.offline import offline_session, settle_findings

    with offline_session(config, "coffer recover accept-loss") as hand:
        history = find_divergence(hand.folder, hand.remembered, hand.objection, hand.outside)
        if history.complaint is None:
            raise InputError("nothing is lost: log, checkpoint and keyring agree", hint="start the server")
        if size != history.size:
            raise InputError(f"{history.size} records are left, not {size}", hint=f"give --to {history.size}")
        hand.shred_again(size)
        accept(hand.folder, history, hand.signer, hand.keyring.remember_checkpoint)
        lost = hand.lost_holds
    with admitted.open_past_mark() as archive:
        if hand.outside is not None:
            archive.renew_mark("coffer recover accept-loss", admitted.principal.officer)
        records = archive.log.next_seq
        settle_findings(archive)
    if chosen.json:
        output.as_json(
            {
                "records": records,
                "lost": max(history.signed_records - size, 0),
                "lost_holds": [_fields(each) for each in lost],
            }
        )
    else:
        output.say(f"the log continues from record {size}; a record says so, and it is writable again")
        _say_lost(lost)


def _lineage_of(text: str) -> bytes:
    """The lineage that a person typed. Raises InputError."""
    if text and not re.fullmatch(r"[0-9a-f]{32}", text):
        raise InputError("a lineage is 32 hex digits", hint="leave --lineage out: the refusal names it")
    return bytes.fromhex(text)


def _fields(hold: LostHold) -> dict[str, Any]:
    return {
        "hold": hold.hold_id,
        "on": hold.kind,
        "since": output.when(hold.added_ms),
        "until": hold.until,
        "officer": hold.officer,
        "account": hold.account,
        "reason": hold.reason,
    }


def _say_lost(lost: tuple[LostHold, ...] | None) -> None:
    """Print the holds that have no effect any more, and the remedy."""
    if lost is None:
        output.say("unknown whether the keyring lacks holds: it does not open with the keys configured here")
    elif lost:
        output.say("\nholds that the log records and the keyring lacks; they keep nothing until they are added again:")
        for each in lost:
            until = f"until {each.until}" if each.until else "until removed"
            what = f"  hold {each.hold_id} on a {each.kind}, {until}, by {each.officer} ({each.account}): {each.reason}"
            output.say(output.plain(what))
        output.say("ask these officers what they held, then: coffer hold add ... --reason TEXT")


def _as_json(history: Divergence) -> dict[str, Any]:
    claims = {"signed": history.signed, "keyring": history.remembered, "mark": history.outside}
    return {
        "records": history.size,
        "root": history.root.hex(),
        **{f"{name}_records": None if claim is None else claim.size for name, claim in claims.items()},
        **{f"{name}_root": None if claim is None else claim.root.hex() for name, claim in claims.items()},
        "missing": max(history.signed_records - history.size, 0),
        "left_over_bytes": history.left_over,
        "complaint": None if history.complaint is None else str(history.complaint),
    }


def _say(history: Divergence) -> None:
    signed, remembered, outside = history.signed, history.remembered, history.outside
    output.facts(
        {
            "log": f"{history.size:,} consistent records, root {history.root.hex()}",
            "beyond them": f"{output.size(history.left_over)} that are not consistent"
            if history.left_over
            else "nothing",
            "signed": "nothing that can be read"
            if signed is None
            else f"{signed.size:,} records, root {signed.root.hex()}",
            "keyring": "nothing that can be read"
            if remembered is None
            else f"{remembered.size:,} records, root {remembered.root.hex()}",
            "mark": "none that can be read"
            if outside is None
            else f"{outside.size:,} records, root {outside.root.hex()}",
            "missing": f"{max(history.signed_records - history.size, 0):,} records that were signed",
            "verdict": "they agree" if history.complaint is None else str(history.complaint),
        }
    )


def _say_remedies(history: Divergence, keyless: ArchiveFolder | None) -> None:
    """Print what works now. `keyless` is the archive whose keyring is gone or cannot be read: until that is back, no
    other remedy could sign or record anything."""
    if history.complaint is None:
        return
    output.say("\nremedies, with the server stopped:")
    if keyless is not None:
        output.say(
            f"  put the newest copy of the keyring folder back, whole, as {keyless.keyring}\n"
            "  coffer recover show             then shows whether anything else is missing\n"
            "Without any copy of the keyring nothing that was stored can be read again."
        )
        return
    output.say(
        "  restore the newest copy of the keyring first, if it is older than the log or the copy\n"
        "  coffer recover from COPY        take what is missing from a backup or replica"
    )
    if history.left_over or history.signed_records <= history.size:  # otherwise nothing here is damaged, but gone
        output.say("  coffer repair --from COPY       if single records or files are damaged")
    output.say(
        f"  coffer recover accept-loss --to {history.size}\n"
        "                                  continue without what is missing, and sign that it is lost"
    )
