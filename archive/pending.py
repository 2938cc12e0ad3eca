"""What was done to an archive by hand and stands in no record yet: announced before, recorded at the next opening.

Rule: a repair needs no key, and a record of it does. So the deed's facts wait in a small file, numbers and hashes only,
until a writer with keys comes by; a stop in between loses neither. A deed that never came about is forgotten.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from archive import summedjson
from archive.folder import ArchiveFolder
from keys.durable import remove, replace
from keys.errors import FormatError
from keys.syscalls import SYSTEM, Syscalls


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
            note = folder.checkpoint
            return note.exists() and hashlib.sha256(note.read_bytes()).hexdigest() == rest
        number, _, kept = rest.partition(":")
        path = folder.segment_path(int(number))
        is_staged = path.with_name(f".{path.name}.new").exists()
        return path.exists() and not is_staged and (not kept or (folder.lost_and_found / kept).exists())


def _path(folder: ArchiveFolder) -> Path:
    return folder.path / "pending.json"


def announce(folder: ArchiveFolder, deeds: list[Pending], calls: Syscalls = SYSTEM) -> None:
    """Write what is about to be done, beside what waits already; durable on return."""
    waiting = [*read_pending(folder), *deeds]
    data = summedjson.serialize([{"facts": dict(d.facts), "proof": d.proof} for d in waiting])
    replace(_path(folder), data, calls=calls)


def read_pending(folder: ArchiveFolder) -> list[Pending]:
    """The deeds that wait to be recorded. Raises FormatError for a file that nobody wrote like this."""
    try:
        rows = summedjson.parse(_path(folder).read_bytes())
        return [Pending(dict(row["facts"]), str(row["proof"])) for row in rows]
    except FileNotFoundError:
        return []
    except (FormatError, KeyError, TypeError) as error:
        raise FormatError(
            f"{_path(folder)} cannot be read", hint="move it away: it only held what a repair or recovery has done"
        ) from error


def forget(folder: ArchiveFolder, calls: Syscalls = SYSTEM) -> None:
    """Remove the file once its deeds are recorded; durable on return."""
    remove(_path(folder), calls=calls)
