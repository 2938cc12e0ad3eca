"""What was done to an archive by hand and stands in no record yet: announced before, recorded at the next opening.

Rule: a repair needs no key, and a record of it does. So the deed's facts wait in a small file, numbers and hashes only,
until a writer with keys comes by; a stop in between loses neither. A deed that never came about is forgotten.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coffer.archive.store import checksummed_json
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import latest_note
from coffer.keys.disk import opening
from coffer.keys.disk.durable import remove, replace
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, InputError, IntegrityError

LOSS_ACCEPTED: Final = "loss accepted"
TAKEN: Final = "records taken from a copy"
REPAIRED: Final = "records repaired from a copy"
_LONGEST: Final = 64 << 20  # a deed names each record that a repair took from a copy
_MOST: Final = 1000
_PROOF: Final = re.compile(r"note:[0-9a-f]{64}|segment:[0-9]{1,8}:[0-9A-Za-z._-]{0,200}")
_ROOT: Final = re.compile(r"[0-9a-f]{64}")
_KEPT: Final = re.compile(r"[0-9A-Za-z._-]{0,200}")


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


_FACTS: Final[dict[str, Callable[[object], bool]]] = {
    "what": lambda value: value in {LOSS_ACCEPTED, TAKEN, REPAIRED},
    "because": lambda value: isinstance(value, str) and len(value) <= 2000 and value.isprintable(),
    "kept": lambda value: isinstance(value, str) and bool(_KEPT.fullmatch(value)),
    "records": lambda value: isinstance(value, list) and all(map(_is_number, value)),
    **dict.fromkeys(("segment", "found_records", "to_records", "signed_records", "keyring_records"), _is_number),
    **dict.fromkeys(
        ("found_root", "to_root", "signed_root", "keyring_root"),
        lambda value: isinstance(value, str) and bool(_ROOT.fullmatch(value)),
    ),
}  # what repair and recovery tell: nobody else's words are sealed and signed


@dataclass(frozen=True, slots=True)
class Pending:
    """A deed: its facts, and by what it is known to have come about (`proof`).

    `note:<SHA-256>`: the signed checkpoint is this one. `segment:<number>:<name>`: the segment was put in place, and
    the old one, if there was one, is kept in lost+found under that name.
    """

    facts: Mapping[str, object]
    proof: str

    def came_about(self, folder: ArchiveFolder) -> bool:
        """Whether the deed was done, and not stopped before."""
        kind, _, rest = self.proof.partition(":")
        if kind == "note":
            return hashlib.sha256(latest_note(folder)).hexdigest() == rest
        number, _, kept = rest.partition(":")
        path = folder.segment_path(int(number))
        if not opening.exists(path) or opening.exists(path.with_name(f".{path.name}.new")):
            return False
        return not kept or opening.exists(folder.lost_and_found / kept)


def _path(folder: ArchiveFolder) -> Path:
    return folder.path / "pending.json"


def announce(folder: ArchiveFolder, deeds: list[Pending], calls: Syscalls = SYSTEM) -> None:
    """Write what is about to be done, beside what waits already; durable on return. Raises FormatError where
    that cannot be read, InputError where it is too much."""
    waiting = [*read_pending(folder), *deeds]
    data = checksummed_json.serialize([{"facts": dict(d.facts), "proof": d.proof} for d in waiting])
    if len(data) > _LONGEST or len(waiting) > _MOST:
        raise InputError("too much is mended at once to be recorded", hint="name some records, then the others")
    replace(_path(folder), data, calls=calls)


def read_pending(folder: ArchiveFolder) -> list[Pending]:
    """The deeds that wait to be recorded. Raises FormatError for one that nobody wrote like this."""
    try:
        return [_parse(row) for row in _rows(checksummed_json.parse(opening.read(_path(folder), _LONGEST)))]
    except FileNotFoundError:
        return []
    except (IntegrityError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{_path(folder)} cannot be read", hint="move it away: it only held what a repair or recovery has done"
        ) from error


def _rows(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise FormatError("these are no deeds")
    return value


def _parse(row: dict[str, object]) -> Pending:
    """A deed in its one form: facts under names of ours, a proof that names nothing outside its folder."""
    facts, proof = row["facts"], row["proof"]
    if not isinstance(facts, dict) or not isinstance(proof, str) or not _PROOF.fullmatch(proof):
        raise FormatError("this is no deed")
    if not all(name in _FACTS and _FACTS[name](value) for name, value in facts.items()):
        raise FormatError("this deed has facts that none has")
    return Pending(facts, proof)


def forget(folder: ArchiveFolder, calls: Syscalls = SYSTEM) -> None:
    """Remove the file once its deeds are recorded; durable on return."""
    remove(_path(folder), calls=calls)
