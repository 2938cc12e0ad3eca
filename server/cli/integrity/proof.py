"""`coffer checkpoint prove-inclusion`, `prove-consistency` and `check`: proofs for people without the archive."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import InputError, NotFoundError
from coffer.server.access.action import Action
from coffer.server.cli import output
from coffer.server.cli.options import Admitted, Chosen, archive_options, json_option

if TYPE_CHECKING:
    from coffer.archive.store.folder import ArchiveFolder
    from coffer.archive.tree.checkpoint import Checkpoint
    from coffer.archive.tree.proof_bundle import Consistency, Inclusion

_SOP_INSTANCE = 0x00080018
_out_option = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.  [default: standard output]",
)


@click.command(
    "prove-inclusion",
    epilog="""\b
Examples:
  coffer checkpoint prove-inclusion 1.2.840.99999.1.2.3 -o proof.json
  coffer checkpoint prove-inclusion 4711 > proof.json

\b
OBJECT is a SOP Instance UID, which needs the key file, or a record number, which does not. The proof contains the
record's header, hashes and the signed checkpoint, and no patient data. Anyone can check it with the verifier key:
`coffer checkpoint check`, or docs/auditor/verify_proof.py without Coffer. Works beside a server.""",
)
@click.argument("object_", metavar="OBJECT")
@_out_option
@archive_options()
@json_option
@click.pass_obj
def prove_inclusion(chosen: Chosen, object_: str, out: Path | None) -> None:
    """Prove that the last signed checkpoint covers a stored object's record."""
    admitted = chosen.existing(Action.PROVE)
    folder = folder_of(admitted)
    from coffer.archive.tree.proof_bundle import Inclusion

    seq = int(object_) if object_.isascii() and object_.isdigit() else _record_of(admitted, object_.strip())
    made = Inclusion.make(folder, _header(folder, seq), signed_note(folder))
    size = made.check(folder.vkey).size
    _write(chosen, out, made, {"record": seq, "records": size, "hashes": len(made.path)})


@click.command(
    "prove-consistency",
    epilog="""\b
Examples:
  coffer checkpoint prove-consistency last-year.note -o proof.json
  coffer checkpoint prove-consistency 4000 > proof.json

\b
OLD is a file with a signed checkpoint that was kept, or the number of records of one in the archive's history.
Needs no key and works beside a server. Exit code 13 if the log does not begin with the records that OLD covers: then it
was rolled back, cut or replaced, and OLD together with checkpoints/latest is the evidence.""",
)
@click.argument("old")
@_out_option
@archive_options()
@json_option
@click.pass_obj
def prove_consistency(chosen: Chosen, old: str, out: Path | None) -> None:
    """Prove that the log still begins with the records that an older checkpoint covers."""
    folder = folder_of(chosen.existing(Action.PROVE))
    from coffer.archive.tree.checkpoint_history import find_note
    from coffer.archive.tree.proof_bundle import Consistency

    note = find_note(folder, int(old)) if old.isascii() and old.isdigit() else _read(Path(old))
    made = Consistency.make(folder, note, signed_note(folder))
    before, after = made.check(folder.vkey)
    _write(chosen, out, made, {"old_records": before.size, "records": after.size, "hashes": len(made.path)})


@click.command(
    epilog="""\b
Examples:
  coffer checkpoint check proof.json
  coffer checkpoint check proof.json --vkey "$(cat hospital.vkey)"

\b
With --vkey no archive is needed. Get the verifier key from the archive's owner by a channel that you trust, not with
the proof. A proof contains the endorsements that lead from each signing key of the archive to the one that signed it.
Exit code 0 if it is proved, 3 or 4 if it is not."""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--vkey", metavar="KEY", help="The verifier key.  [default: the archive's]")
@archive_options()
@json_option
@click.pass_obj
def check(chosen: Chosen, file: Path, vkey: str | None) -> None:
    """Check a proof of inclusion or consistency."""
    from coffer.archive.format.record import parse_header
    from coffer.archive.tree.proof_bundle import Inclusion, parse_proof

    vkey = vkey if vkey is not None else folder_of(chosen.existing(Action.VERIFY)).vkey
    proof = parse_proof(_read(file))
    if isinstance(proof, Inclusion):
        signed, header = proof.check(vkey), parse_header(proof.record)
        shown = {
            "proved": "inclusion",
            "record": header.seq,
            "body_sha256": header.body_sha256.hex(),
            **_signed(signed),
        }
        line = (
            f"proved: record {header.seq}, whose sealed body has SHA-256 {header.body_sha256.hex()},"
            f" is one of the {signed.size} records that {signed.origin} signed"
        )
    else:
        before, after = proof.check(vkey)
        shown = {"proved": "consistency", "old_records": before.size, **_signed(after)}
        line = f"proved: the {after.size} records that {after.origin} signed begin with the {before.size} signed before"
    if chosen.json:
        output.as_json(shown)
    else:
        output.say(output.plain(line))


def _signed(signed: Checkpoint) -> dict[str, Any]:
    return {"origin": signed.origin, "records": signed.size, "root": base64.b64encode(signed.root).decode()}


def folder_of(admitted: Admitted) -> ArchiveFolder:
    """The archive's folder, without its keys. Raises as `ArchiveFolder.open`."""
    from coffer.archive.store.folder import ArchiveFolder

    return ArchiveFolder.open(admitted.config.archive)


def signed_note(folder: ArchiveFolder) -> bytes:
    """The last signed checkpoint of the archive. Raises as `read_note`."""
    from coffer.archive.tree.checkpoint import read_note

    return read_note(folder)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="name an existing file") from error


def _record_of(admitted: Admitted, uid: str) -> int:
    with admitted.open_reading() as archive:
        from coffer.server.services.retrieve import Retriever

        found = Retriever(archive).instances({_SOP_INSTANCE: (uid,)}, admitted.principal)
        records = [version.seq for instance in found for version in instance.located.versions]
    if not records:
        raise NotFoundError("the archive has no such object", hint="`coffer find` lists what it has")
    if len(records) > 1:
        numbers = ", ".join(map(str, sorted(records)))
        raise InputError("this object is stored in several versions", hint=f"give one of its records: {numbers}")
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


def _write(chosen: Chosen, out: Path | None, proof: Inclusion | Consistency, facts: dict[str, Any]) -> None:
    """Print the proof on standard output, or write it to a file and print the facts."""
    if out is None:
        output.say(proof.serialize().decode().removesuffix("\n"))
        return
    output.write_file(out, proof.serialize())
    if chosen.json:
        output.as_json({**facts, "file": str(out)})
    else:
        what = "record {record}" if "record" in facts else "the first {old_records} records"
        output.say(f"{out}: proves {what.format(**facts)} under the checkpoint of {facts['records']} records")
