"""`coffer checkpoint`: signed statements of what the log holds, and proofs for somebody without the archive."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import InputError, LockedError, NotFoundError, WriterGoneError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Admitted, Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.tree.checkpoint import Checkpoint
    from coffer.archive.tree.proof_bundle import Consistency, Inclusion

_SOP_INSTANCE = 0x00080018
_out_option = click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write; standard output if none."
)


@click.group()
def checkpoint() -> None:
    """Sign what the log holds, and prove from it that a record is there and that nothing was changed since."""


@checkpoint.command(
    epilog="""\b
Examples:
  coffer checkpoint show
  coffer checkpoint show --json | jq -r .note > kept.note

\b
Needs no key and works beside a server. Keep notes where the archive's administrators cannot change them: whoever
holds one can prove later whether the log still begins with what it says."""
)
@archive_options()
@json_option
@click.pass_obj
def show(chosen: Chosen) -> None:
    """Show the last signed checkpoint, its verifier key, and how many there are."""
    folder = _folder(chosen.existing(Action.INSPECT))
    from coffer.archive.reader import LogReader
    from coffer.archive.tree.checkpoint import open_checkpoint
    from coffer.archive.tree.checkpoint_history import read_entries
    from coffer.archive.tree.key_history import read_key_history
    from coffer.server.maintenance.offline import inspect_keyring

    note = _latest(folder)
    signed, noted = open_checkpoint(note, folder), sum(1 for _ in read_entries(folder))
    reader, witness = LogReader(folder), inspect_keyring(folder).remembered
    unsigned, keys = sum(1 for _ in reader.records(signed.size)), read_key_history(folder)
    reader.close()
    told: dict[str, Any] = {
        "origin": signed.origin,
        "records": signed.size,
        "unsigned_records": unsigned,
        "root": base64.b64encode(signed.root).decode(),
        "verifier_key": folder.vkey,
        "signing_key": keys.current,
        "generation": len(keys.vkeys),
        "checkpoints": noted,
        "keyring_records": witness.size if witness else None,
        "note": note.decode(),
    }
    if chosen.json:
        output.as_json(told)
        return
    output.facts(
        {
            "origin": signed.origin,
            "records": f"{signed.size}, and {unsigned} since",
            "root": told["root"],
            "verifier key": folder.vkey,
            **({"signed now by": f"key {len(keys.vkeys)}, {keys.current}"} if keys.endorsements else {}),
            "signed before": f"{max(noted - 1, 0)} checkpoints, all in {folder.checkpoint_history}",
            "keyring": f"remembers {witness.size} records" if witness else "none at hand",
        }
    )


@checkpoint.command(
    epilog="""\b
Examples:
  coffer checkpoint sign
  coffer checkpoint sign --json | jq -r .note > before-the-audit.note

\b
A running server signs by itself, every minute in which something was stored, and when it ends. This lets it sign at
once, and waits until it has: say it before you take a snapshot or a copy of the archive."""
)
@archive_options()
@json_option
@click.pass_obj
def sign(chosen: Chosen) -> None:
    """Sign the log as it is now, after a check that it extends the last checkpoint. Needs the key file."""
    admitted = chosen.existing(Action.SIGN)
    folder = _folder(admitted)
    from coffer.archive.tree.checkpoint import latest_note, open_checkpoint

    before = latest_note(folder)
    if not _signed_here(admitted) and not _signed_by_the_writer(admitted, folder) and not _signed_here(admitted):
        raise LockedError("the archive was opened by another process just now", hint="run the command again")
    note = _latest(folder)
    signed = open_checkpoint(note, folder)
    if chosen.json:
        output.as_json({"records": signed.size, "signed": note != before, "note": note.decode()})
    elif note == before:
        output.say(f"nothing was added: the last checkpoint covers all {signed.size} records")
    else:
        output.say(f"signed: {signed.size} records, root {base64.b64encode(signed.root).decode()}")


@checkpoint.command(
    "prove-inclusion",
    epilog="""\b
Examples:
  coffer checkpoint prove-inclusion 1.2.840.99999.1.2.3 -o proof.json
  coffer checkpoint prove-inclusion 4711 > proof.json

\b
OBJECT is a SOP Instance UID, which needs the key file, or a record's number, which needs none. The proof holds the
record's header, hashes and the signed checkpoint: nothing of the patient. Anyone checks it with the verifier key:
`coffer checkpoint check`, or docs/auditor/verify_proof.py without Coffer. Works beside a server.""",
)
@click.argument("object_", metavar="OBJECT")
@_out_option
@archive_options()
@json_option
@click.pass_obj
def prove_inclusion(chosen: Chosen, object_: str, out: Path | None) -> None:
    """Prove that a stored object's record is under the last signed checkpoint."""
    admitted = chosen.existing(Action.PROVE)
    folder = _folder(admitted)
    from coffer.archive.tree.proof_bundle import Inclusion

    seq = int(object_) if object_.isascii() and object_.isdigit() else _record_of(admitted, object_.strip())
    made = Inclusion.make(folder, _header(folder, seq), _latest(folder))
    size = made.check(folder.vkey).size
    _give(chosen, out, made, {"record": seq, "records": size, "hashes": len(made.path)})


@checkpoint.command(
    "prove-consistency",
    epilog="""\b
Examples:
  coffer checkpoint prove-consistency last-year.note -o proof.json
  coffer checkpoint prove-consistency 4000 > proof.json

\b
OLD is a file with a signed checkpoint that somebody kept, or the number of records of one in the archive's history.
Needs no key and works beside a server. Exit code 13 when the log does not begin with what OLD says: then something
was put back, cut or replaced, and OLD with checkpoints/latest is the evidence.""",
)
@click.argument("old")
@_out_option
@archive_options()
@json_option
@click.pass_obj
def prove_consistency(chosen: Chosen, old: str, out: Path | None) -> None:
    """Prove that the log still begins with what an older checkpoint says."""
    folder = _folder(chosen.existing(Action.PROVE))
    from coffer.archive.tree.checkpoint_history import find_note
    from coffer.archive.tree.proof_bundle import Consistency

    note = find_note(folder, int(old)) if old.isascii() and old.isdigit() else _read(Path(old))
    made = Consistency.make(folder, note, _latest(folder))
    before, after = made.check(folder.vkey)
    _give(chosen, out, made, {"old_records": before.size, "records": after.size, "hashes": len(made.path)})


@checkpoint.command(
    epilog="""\b
Examples:
  coffer checkpoint check proof.json
  coffer checkpoint check proof.json --vkey "$(cat hospital.vkey)"

\b
With --vkey no archive is needed. The verifier key must come from the archive's owner by a way that you trust, not
with the proof; a proof brings along what leads from any signing key of the archive to the one that signed it. Exit
code 0 when it is proved, 3 or 4 when it is not."""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--vkey", metavar="KEY", help="The verifier key; that of the archive if none is given.")
@archive_options()
@json_option
@click.pass_obj
def check(chosen: Chosen, file: Path, vkey: str | None) -> None:
    """Check a proof of inclusion or consistency."""
    from coffer.archive.format.record import parse_header
    from coffer.archive.tree.proof_bundle import Inclusion, parse_proof

    vkey = vkey if vkey is not None else _folder(chosen.existing(Action.VERIFY)).vkey
    proof = parse_proof(_read(file))
    if isinstance(proof, Inclusion):
        signed, header = proof.check(vkey), parse_header(proof.record)
        told = {"proved": "inclusion", "record": header.seq, "body_sha256": header.body_sha256.hex(), **_signed(signed)}
        line = (
            f"proved: record {header.seq}, whose sealed body has SHA-256 {header.body_sha256.hex()},"
            f" is one of the {signed.size} records that {signed.origin} signed"
        )
    else:
        before, after = proof.check(vkey)
        told = {"proved": "consistency", "old_records": before.size, **_signed(after)}
        line = f"proved: the {after.size} records that {after.origin} signed begin with the {before.size} signed before"
    if chosen.json:
        output.as_json(told)
    else:
        output.say(output.plain(line))


def _signed_here(admitted: Admitted) -> bool:
    """Sign in this process; False where another one writes the archive."""
    try:
        with admitted.open_writer() as archive:
            archive.sign_checkpoint()
    except LockedError:
        return False
    return True


def _signed_by_the_writer(admitted: Admitted, folder: ArchiveFolder) -> bool:
    """On return the process that writes the archive has signed; False where it has ended before it did.

    Raises UnavailableError where it does not sign.
    """
    from coffer.server.engine.providers import open_keyring, provider_of
    from coffer.server.mailbox import sign_order

    keyring = open_keyring(folder, provider_of(admitted.config.keys, folder.archive_id))
    try:
        sign_order.ask(keyring, folder)
    except WriterGoneError:
        return False
    finally:
        keyring.close()
    return True


def _signed(signed: Checkpoint) -> dict[str, Any]:
    return {"origin": signed.origin, "records": signed.size, "root": base64.b64encode(signed.root).decode()}


def _folder(admitted: Admitted) -> ArchiveFolder:
    from coffer.archive.store.folder import ArchiveFolder

    return ArchiveFolder.open(admitted.config.archive)


def _latest(folder: ArchiveFolder) -> bytes:
    from coffer.archive.tree.checkpoint import read_note

    try:
        return read_note(folder)
    except FileNotFoundError as error:
        raise NotFoundError("nothing was signed yet", hint="store something; then coffer checkpoint sign") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="name a file that exists") from error


def _record_of(admitted: Admitted, uid: str) -> int:
    with admitted.open_reading() as archive:
        from coffer.server.services.retrieve import Retriever

        found = Retriever(archive).instances({_SOP_INSTANCE: (uid,)}, admitted.principal)
        records = [version.seq for instance in found for version in instance.located.versions]
    if not records:
        raise NotFoundError("the archive has no such object", hint="`coffer find` lists what it has")
    if len(records) > 1:
        numbers = ", ".join(map(str, sorted(records)))
        raise InputError("this object was stored in several versions", hint=f"give one of its records: {numbers}")
    return records[0]


def _header(folder: ArchiveFolder, seq: int) -> bytes:
    from coffer.archive.reader import LogReader

    reader = LogReader(folder)
    try:
        _, header = next(reader.records(seq))
        return header.serialize()
    except StopIteration as error:
        raise NotFoundError(f"the log has no record {seq}", hint="records are numbered from 0") from error
    finally:
        reader.close()


def _give(chosen: Chosen, out: Path | None, proof: Inclusion | Consistency, told: dict[str, Any]) -> None:
    """The proof on standard output, or into a file and the facts on standard output."""
    if out is None:
        output.say(proof.serialize().decode().removesuffix("\n"))
        return
    output.into(out, proof.serialize())
    if chosen.json:
        output.as_json({**told, "file": str(out)})
    else:
        what = "record {record}" if "record" in told else "the first {old_records} records"
        output.say(f"{out}: proves {what.format(**told)} under the checkpoint of {told['records']} records")
