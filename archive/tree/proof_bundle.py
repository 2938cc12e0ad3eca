"""Proofs for people without the archive: small JSON files that anyone with the verifier key can check.

Rule: a proof is checked only against the signed notes in it and a verifier key from elsewhere. It includes the
endorsements that lead from that key to the one that signed. It holds record headers, hashes and notes: nothing secret,
nothing about a patient.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from coffer.archive.format.entry import OWN_LOG
from coffer.archive.format.merkle import leaf_hash
from coffer.archive.format.record import parse_header
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, parse_checkpoint, verified_checkpoint
from coffer.archive.tree.key_history import KeyHistory, read_key_history
from coffer.archive.tree.proof import HashAt, consistency, extends, includes, inclusion
from coffer.archive.tree.tiles import Tiles
from coffer.keys.crypto.signing import body_of
from coffer.keys.errors import FormatError, HistoryError, InputError, IntegrityError

INCLUSION: Final = "coffer/inclusion/v2"
CONSISTENCY: Final = "coffer/consistency/v2"
MAX_BYTES: Final = 1 << 20
_HINT = "run coffer verify: it reports what is damaged"


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A proof that a record with this 160-byte header is under a signed checkpoint; `path` as in RFC 6962 2.1.1."""

    record: bytes
    path: tuple[bytes, ...]
    note: bytes
    endorsements: tuple[bytes, ...] = ()

    @classmethod
    def make(cls, folder: ArchiveFolder, record: bytes, note: bytes) -> Self:
        """Prove that a record of the log is under `note`. Raises InputError if the note does not cover it,
        IntegrityError if the log is not what was signed."""
        keys = read_key_history(folder)
        signed, index = verified_checkpoint(note, keys), parse_header(record).seq
        if index >= signed.size:
            raise InputError(
                f"record {index} is not under a checkpoint yet: the last one covers {signed.size} records",
                hint="a server signs every minute; without one, run coffer checkpoint sign",
            )
        for at in _views(folder, signed.size):
            path = inclusion(index, signed.size, at)
            if includes(leaf_hash(record), index, signed.size, path, signed.root):
                return cls(record, tuple(path), note, keys.notes)
        raise IntegrityError(f"record {index} is not what the checkpoint covers", hint=_HINT)

    def check(self, vkey: str) -> Checkpoint:
        """The checkpoint that covers the record, for a verifier that trusts `vkey`. Raises IntegrityError if the proof
        fails."""
        signed, index = (
            verified_checkpoint(self.note, KeyHistory.of(vkey, self.endorsements)),
            parse_header(self.record).seq,
        )
        if not includes(leaf_hash(self.record), index, signed.size, self.path, signed.root):
            raise IntegrityError(f"this does not prove that record {index} is under the checkpoint")
        return signed

    def serialize(self) -> bytes:
        """The JSON text (archive/FORMAT.md, "Proofs")."""
        return _json(
            {
                "type": INCLUSION,
                "log": OWN_LOG,
                "record": self.record.hex(),
                "index": parse_header(self.record).seq,
                "size": parse_checkpoint(body_of(self.note)).size,
                "hashes": [step.hex() for step in self.path],
                "checkpoint": self.note.decode(),
                "endorsements": [each.decode() for each in self.endorsements],
            }
        )


@dataclass(frozen=True, slots=True)
class Consistency:
    """A proof that the tree of an older checkpoint is a prefix of a newer one's; `path` as in RFC 6962 2.1.2."""

    old: bytes
    path: tuple[bytes, ...]
    new: bytes
    endorsements: tuple[bytes, ...] = ()

    @classmethod
    def make(cls, folder: ArchiveFolder, old: bytes, new: bytes) -> Self:
        """Prove that `new` extends `old`, two notes of this archive. Raises HistoryError if they contradict each other
        or the log."""
        keys = read_key_history(folder)
        before, after = verified_checkpoint(old, keys), verified_checkpoint(new, keys)
        kept = "keep both checkpoints as evidence; coffer recover show explains more"
        if before.size > after.size:
            raise HistoryError(
                f"a checkpoint over {before.size} records was signed, and the last one here covers {after.size}",
                hint=kept,
            )
        for at in _views(folder, after.size):
            path = consistency(before.size, after.size, at)
            if extends(before.size, before.root, after.size, after.root, path):
                return cls(old, tuple(path), new, keys.notes)
        raise HistoryError(
            f"the first {before.size} records of this log are not those that the older checkpoint covers", hint=kept
        )

    def check(self, vkey: str) -> tuple[Checkpoint, Checkpoint]:
        """The older and the newer checkpoint, for a verifier that trusts `vkey`. Raises IntegrityError if the proof
        fails."""
        keys = KeyHistory.of(vkey, self.endorsements)
        before, after = verified_checkpoint(self.old, keys), verified_checkpoint(self.new, keys)
        if not extends(before.size, before.root, after.size, after.root, self.path):
            raise IntegrityError(
                f"this does not prove that the log over {after.size} records begins with the one over {before.size}"
            )
        return before, after

    def serialize(self) -> bytes:
        """The JSON text (archive/FORMAT.md, "Proofs")."""
        return _json(
            {
                "type": CONSISTENCY,
                "log": OWN_LOG,
                "old_size": parse_checkpoint(body_of(self.old)).size,
                "new_size": parse_checkpoint(body_of(self.new)).size,
                "hashes": [step.hex() for step in self.path],
                "old": self.old.decode(),
                "new": self.new.decode(),
                "endorsements": [each.decode() for each in self.endorsements],
            }
        )


def parse_proof(data: bytes) -> Inclusion | Consistency:
    """Parse either proof. Raises FormatError on anything `serialize` would not have written."""
    made: Inclusion | Consistency
    try:
        fields: dict[str, Any] = json.loads(data if len(data) <= MAX_BYTES else b"")
        path = tuple(bytes.fromhex(step) for step in fields["hashes"])
        endorsements = tuple(each.encode() for each in fields["endorsements"])
        if fields["type"] == INCLUSION:
            made = Inclusion(bytes.fromhex(fields["record"]), path, fields["checkpoint"].encode(), endorsements)
        else:
            made = Consistency(fields["old"].encode(), path, fields["new"].encode(), endorsements)
        same = made.serialize() == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(
            "this is not a proof of inclusion or consistency", hint="see archive/FORMAT.md, Proofs"
        ) from error
    if not same:
        raise FormatError("the proof is not in canonical form", hint="use the file exactly as it was written")
    return made


def _views(folder: ArchiveFolder, size: int) -> Sequence[HashAt]:
    """The sources of hashes in the order to try them: the tiles, then the record headers alone."""
    return Tiles(folder, size).at, Tiles(folder, size, distrust=0).at


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, indent=1, ensure_ascii=False).encode() + b"\n"
