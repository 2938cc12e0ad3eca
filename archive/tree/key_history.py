"""The signing keys of an archive in order, each endorsed by the one before: a verifier follows them from one it trusts.

Rule: an endorsement is durable before anything is signed with the key that it names. It states the number of records
and the root at which the old key signed last: signatures of the old key over more records do not count, nor those of
the new key over fewer. After a log lost records (`archive.repair.divergence`), the key is endorsed again at what is
left. Formats: FORMAT.md, "Signing keys".
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, Self

from coffer.archive.format.group import GroupEnd, lineage_of, signature_of
from coffer.archive.store.folder import REPLACE, ArchiveFolder
from coffer.keys.crypto.signing import CheckpointSigner, body_of, has_line, is_signed_by, verify_note
from coffer.keys.disk import opening
from coffer.keys.disk.durable import keep, replace
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, HistoryError, IntegrityError

__all__ = ["Endorsement", "KeyHistory", "adopt", "continue_from", "endorse", "generation_of", "read_key_history"]

TYPE: Final = "coffer/signing-key/v1"
_NOTE: Final = re.compile(
    rb"coffer/signing-key/v1\n(?:[^\n\0]+\n){6}\n(?:\xe2\x80\x94 [^\n\0]+\n)+"  # its text has seven lines
)
_LONGEST: Final = 1 << 20  # more than a thousand keys
_HINT: Final = "take checkpoints/endorsements from a backup: coffer repair --from COPY does it"


class TreeHead(Protocol):
    """What is signed of the log: a number of records and their root."""

    @property
    def size(self) -> int:
        """The number of records."""

    @property
    def root(self) -> bytes:
        """The RFC 6962 tree head over them, 32 bytes."""


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The statement, by the old key and the new one, that the new key signs from `size` records with this root on.

    `generation` is that of the new key, from 2 up; keys are C2SP verifier keys in the name of the log's origin.
    """

    origin: str
    generation: int
    old: str
    new: str
    size: int
    root: bytes

    def serialize(self) -> bytes:
        """The seven lines that are signed."""
        root = base64.b64encode(self.root).decode()
        lines = (TYPE, self.origin, str(self.generation), self.old, self.new, str(self.size), root)
        return "".join(f"{line}\n" for line in lines).encode()

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse the seven lines. Raises FormatError on anything `serialize` would not have written."""
        try:
            _, origin, generation, old, new, size, root, _ = body.decode().split("\n")
            parsed = cls(origin, int(generation), old, new, int(size), base64.b64decode(root, validate=True))
        except (UnicodeDecodeError, ValueError, binascii.Error) as error:
            raise FormatError("an endorsement of a signing key cannot be read", hint=_HINT) from error
        if len(parsed.root) != 32 or parsed.size < 0 or parsed.serialize() != body:
            raise FormatError("an endorsement of a signing key is not in canonical form", hint=_HINT)
        return parsed


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """Signing keys in order, generation 1 first; `notes` and `endorsements` lead from each to the next."""

    vkeys: tuple[str, ...]
    endorsements: tuple[Endorsement, ...]
    notes: tuple[bytes, ...]

    @classmethod
    def of(cls, vkey: str, notes: Sequence[bytes]) -> Self:
        """Follow all endorsements of an archive, for a verifier that trusts `vkey`, a key of any generation.

        Both keys have signed each endorsement, so one trusted key vouches for all. Raises FormatError, IntegrityError.
        """
        origin = vkey.partition("+")[0]
        found: list[Endorsement] = []
        for note in notes:
            made = Endorsement.parse(body_of(note))
            for key in (made.old, made.new):
                verify_note(note, origin, key)
            before = found[-1].new if found else made.old
            if (made.origin, made.generation, made.old) != (origin, len(found) + 2, before):
                raise IntegrityError(f"the endorsement of signing key {made.generation} is out of order", hint=_HINT)
            found.append(made)
        vkeys = (found[0].old, *(made.new for made in found)) if found else (vkey,)
        if vkey not in vkeys:
            raise IntegrityError("the endorsements do not lead to this verifier key", hint=_HINT)
        return cls(vkeys, tuple(found), tuple(notes))

    @property
    def origin(self) -> str:
        """The name of the log, in whose name all keys sign."""
        return self.current.partition("+")[0]

    @property
    def current(self) -> str:
        """The verifier key of the current signing key."""
        return self.vkeys[-1]

    def span(self, generation: int) -> tuple[int, int | None]:
        """The least and the most records that a checkpoint by this key may cover (most is None for the current key)."""
        sizes = [0, *(made.size for made in self.endorsements)]
        return sizes[generation - 1], min(sizes[generation:], default=None)

    def standing(self) -> list[Endorsement]:
        """The endorsements that still hold: not those at records that, by a later endorsement, were lost."""
        made = self.endorsements
        return [each for at, each in enumerate(made) if all(each.size <= later.size for later in made[at + 1 :])]

    def signers(self, note: bytes) -> list[int]:
        """The generations whose key signed a note, signatures verified. Raises FormatError, IntegrityError."""
        by = [at for at, vkey in enumerate(self.vkeys, 1) if has_line(note, vkey)]
        for vkey in {self.vkeys[at - 1] for at in by} or {self.current}:
            verify_note(note, self.origin, vkey)
        return by

    def require_in_force(self, by: Sequence[int], size: int) -> None:
        """Raise IntegrityError unless the key of one of these generations is in force at this number of records."""
        for generation in by:
            least, most = self.span(generation)
            if least <= size and (most is None or size <= most):
                return
        raise IntegrityError(
            f"signing key {by[-1]} signed over {size} records, where it is not in force",
            hint="someone with an old signing key may have made it: keep it, and ask the archive's owner",
        )

    def vouches(self, end: GroupEnd, tag: bytes) -> bool:
        """Whether a key that is in force at the end of a group made its tag. About 0.15 ms a key."""
        spans = ((vkey, *self.span(generation)) for generation, vkey in enumerate(self.vkeys, 1))
        in_force = {vkey for vkey, least, most in spans if least <= end.size and (most is None or end.size <= most)}
        statement = end.statement(lineage_of(tag))
        return any(is_signed_by(vkey, statement, signature_of(tag)) for vkey in in_force)


def split(data: bytes) -> tuple[bytes, ...]:
    """Split concatenated endorsement notes. Raises FormatError for anything in between."""
    found = tuple(_NOTE.findall(data))
    if b"".join(found) != data:
        raise FormatError("the endorsements of the signing keys cannot be read", hint=_HINT)
    return found


def read_key_history(folder: ArchiveFolder) -> KeyHistory:
    """The signing keys of an archive, from the one in archive.json on; reads a small file. Raises the same errors as
    `KeyHistory.of`.

    Beside a live writer, read a signed note first and its keys after it: a key's endorsement is durable before its
    first signature.
    """
    try:
        data = opening.read(folder.endorsements, _LONGEST)
    except FileNotFoundError:
        data = b""
    found = _followed(folder.vkey, data)
    if found.origin != folder.origin:
        raise IntegrityError(f"{folder.path}/archive.json: the verifier key belongs to another name", hint=REPLACE)
    return found


@lru_cache(maxsize=64)
def _followed(vkey: str, data: bytes) -> KeyHistory:
    try:
        found = KeyHistory.of(vkey, split(data))
    except IntegrityError as error:
        if error.hint():
            raise
        raise type(error)(f"checkpoints/endorsements: {error}", hint=_HINT) from error
    if found.vkeys[0] != vkey:
        raise IntegrityError("the endorsements of the signing keys do not begin with that of archive.json", hint=_HINT)
    return found


def endorse(
    folder: ArchiveFolder, old: CheckpointSigner, new: CheckpointSigner, at: TreeHead, calls: Syscalls = SYSTEM
) -> Endorsement:
    """Endorse `new`, which signs from the checkpoint `at` on; durable on return.

    Raises IntegrityError, and changes nothing, if `old` is not the current signing key.
    """
    keys, origin = read_key_history(folder), folder.origin
    made = Endorsement(origin, len(keys.vkeys) + 1, old.vkey(origin), new.vkey(origin), at.size, at.root)
    body = made.serialize()
    note = old.sign_note(origin, body) + (new.line(origin, body) if new.public != old.public else b"")
    data = b"".join((*keys.notes, note))
    _followed(folder.vkey, data)
    replace(folder.endorsements, data, calls=calls)
    return made


def adopt(
    folder: ArchiveFolder, copy: ArchiveFolder, signed: Collection[bytes], vkey: str = "", calls: Syscalls = SYSTEM
) -> bool:
    """Take endorsements that are missing or damaged here from a copy, durable on return; returns whether any were.

    They are taken as far as something here proves that they are its own: up to the last key that made one of these
    `signed` notes, or that is `vkey`. A copy that was written elsewhere has true ones, too, of keys that this archive
    never had. Raises IntegrityError if those of the copy do not lead from this archive's first key, or if neither list
    is a prefix of the other."""
    given = read_key_history(copy)
    try:
        mine = read_key_history(folder).notes
    except IntegrityError:
        mine = ()
    proven = [*(given.vkeys.index(each) for each in {vkey} & set(given.vkeys)), *_made_by(given, signed)]
    theirs = given.notes[: max(proven, default=0)]
    if mine[: len(theirs)] == theirs:
        return False
    if theirs[: len(mine)] != mine:
        raise IntegrityError(
            "two different keys were endorsed as successors of one key, one here, one in the copy",
            hint="keep both copies",
        )
    replace(folder.endorsements, b"".join(theirs), calls=calls)
    return True


def _made_by(keys: KeyHistory, signed: Collection[bytes]) -> Iterator[int]:
    """The places of the keys that made some of these notes."""
    for note in signed:
        with suppress(IntegrityError):
            yield from (generation - 1 for generation in keys.signers(note))


def generation_of(folder: ArchiveFolder, signer: CheckpointSigner) -> int:
    """The generation of this signing key, from 1 up. Raises HistoryError if it is none of the archive's."""
    vkeys, mine = read_key_history(folder).vkeys, signer.vkey(folder.origin)
    if mine not in vkeys:
        raise HistoryError("the keyring's signing key is not one of this archive's", hint="put the newest keyring back")
    return len(vkeys) - vkeys[::-1].index(mine)


def continue_from(folder: ArchiveFolder, signer: CheckpointSigner, at: TreeHead, calls: Syscalls = SYSTEM) -> None:
    """Let `signer`, the keyring's key, sign `at` and what follows, after records or the newest keyring were lost.

    Endorsements of keys that were lost with a newer keyring go to lost+found: a verifier that holds them will reject
    what is signed from now on. If `at` covers fewer records than the key's own endorsement, the key endorses itself
    there. Durable on return. Raises the same error as `generation_of`.
    """
    keys, generation = read_key_history(folder), generation_of(folder, signer)
    kept = keys.notes[: generation - 1]
    if kept != keys.notes:
        data = b"".join(keys.notes)
        name = f"endorsements-{hashlib.sha256(data).hexdigest()[:16]}.notes"
        keep(folder.lost_and_found / name, data, calls=calls)
        replace(folder.endorsements, b"".join(kept), calls=calls)
    if any(made.size > at.size for made in keys.endorsements[: generation - 1]):
        endorse(folder, signer, signer, at, calls)
