"""Events of offline repairs and recoveries that are not in the log yet: stored first, recorded at the next opening.

Rule: a repair needs no key, but a record of it does. So the facts of the act, numbers and hashes only, wait in a small
file until a writer with keys opens the archive; an interruption in between loses neither. The event of an act that was
never carried out is dropped.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coffer.archive.store import checksummed_json
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG
from coffer.archive.tree.checkpoint import latest_note
from coffer.keys.disk import opening
from coffer.keys.disk.durable import remove, replace
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, InputError, IntegrityError

LOSS_ACCEPTED: Final = "loss accepted"
TAKEN: Final = "records taken from a copy"
REPAIRED: Final = "records repaired from a copy"
_LONGEST: Final = 64 << 20  # an event names each record that a repair took from a copy
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
}  # the facts that repair and recovery write: nothing else in the file gets sealed and signed


@dataclass(frozen=True, slots=True)
class DeferredEvent:
    """An event to record: its facts, and the evidence that the act was carried out (`proof`).

    `note:<SHA-256>`: the latest signed checkpoint is this note. `segment:<number>:<name>`: the segment was installed,
    and the old file, if there was one, is in lost+found under that name.
    """

    facts: Mapping[str, object]
    proof: str

    def was_done(self, folder: ArchiveFolder) -> bool:
        """Whether the act was carried out, and not interrupted before."""
        kind, _, rest = self.proof.partition(":")
        if kind == "note":
            return hashlib.sha256(latest_note(folder)).hexdigest() == rest
        number, _, kept = rest.partition(":")
        return folder.segment_store().was_replaced(LOG, int(number), kept)


def _path(folder: ArchiveFolder) -> Path:
    return folder.path / "pending.json"


def defer(folder: ArchiveFolder, events: list[DeferredEvent], calls: Syscalls = SYSTEM) -> None:
    """Store the events of acts that are about to be carried out, after those already stored; durable on return.

    Raises FormatError if the stored events cannot be parsed, InputError if there are too many.
    """
    waiting = [*read_deferred(folder), *events]
    data = checksummed_json.serialize([{"facts": dict(event.facts), "proof": event.proof} for event in waiting])
    if len(data) > _LONGEST or len(waiting) > _MOST:
        raise InputError("too much is repaired at once to be recorded", hint="name some records, then the others")
    replace(_path(folder), data, calls=calls)


def read_deferred(folder: ArchiveFolder) -> list[DeferredEvent]:
    """The events that wait to be recorded. Raises FormatError for any that Coffer would not have written."""
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
        raise FormatError("this is not a list of events")
    return value


def _parse(row: dict[str, object]) -> DeferredEvent:
    """An event in canonical form: known facts, and a proof that names nothing outside its folder."""
    facts, proof = row["facts"], row["proof"]
    if not isinstance(facts, dict) or not isinstance(proof, str) or not _PROOF.fullmatch(proof):
        raise FormatError("this is not an event")
    if not all(name in _FACTS and _FACTS[name](value) for name, value in facts.items()):
        raise FormatError("this event has unknown facts")
    return DeferredEvent(facts, proof)


def discard_deferred(folder: ArchiveFolder, calls: Syscalls = SYSTEM) -> None:
    """Remove the file once its events are recorded; durable on return."""
    remove(_path(folder), calls=calls)
