"""Read without a key what a keyring remembers of the log, and check that its rows are those that were written.

    python -I -m coffer.keys.inspect.remembered FOLDER < KEY_IDS

Rule: LMDB trusts its pages and may crash the process on damaged ones, so a separate process reads them. It unwraps no
key and writes nothing. The command prints one line of JSON: `note` (base64 or null), `complaint` (or null), `readable`,
`rotates`: whether a rotation of the signing key is under way; and `lacks`: of the keys whose ids (16 bytes each) are on
stdin, how many the keyring neither holds nor has shredded."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coffer.keys.disk import opening
from coffer.keys.errors import CofferError, FormatError
from coffer.keys.keyring import rows
from coffer.keys.store.lmdb_store import LmdbKeyringStore

__all__ = ["RememberedState", "read_remembered"]

_SECONDS: Final = 600
_ID_BYTES: Final = 16
_PLACES: Final = (rows.STUDY_PREFIX, rows.TOMBSTONE_PREFIX)


@dataclass(frozen=True, slots=True)
class RememberedState:
    """The signed note of the remembered checkpoint, if any; what is wrong with the rows, if anything; whether every row
    could be read nevertheless; how many of the requested keys are missing; whether the signing key is being changed."""

    note: bytes | None
    complaint: str | None
    readable: bool
    lacks: int = 0
    rotates: bool = False


def read_remembered(folder: Path, key_ids: Collection[bytes] = ()) -> RememberedState:
    """Read the keyring in `folder` in a separate process, safely beside a writer. Damage is reported, never raised.

    `key_ids` are the ids (16 bytes each) of study keys that the keyring should hold or have held.
    """
    command = [sys.executable, "-I", "-m", "coffer.keys.inspect.remembered", str(folder)]
    try:
        wanted = b"".join(key_ids)
        done = subprocess.run(command, input=wanted, capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603  ourselves
        answer = json.loads(done.stdout)
        note = None if answer["update"] is None else base64.b64decode(answer["update"])
        return RememberedState(note, answer["complaint"], answer["readable"], answer["lacks"], answer["rotates"])
    except subprocess.TimeoutExpired:
        return RememberedState(None, f"reading the keyring took longer than {_SECONDS} s", readable=False)
    except (ValueError, KeyError, TypeError):
        return RememberedState(None, f"reading the keyring ended with {done.returncode} and no answer", readable=False)


def _read(folder: Path, key_ids: Collection[bytes] = ()) -> RememberedState:
    try:
        opening.distrust(folder.parent)  # the archive folder; `distrust` holds for one process only
        store = LmdbKeyringStore(folder, readonly=True)
        try:
            header = store.get(rows.HEADER_KEY)
            if header is None:
                raise FormatError("the keyring has no header")
            rows.KeyringHeader.decode(header)
            complaint = store.complaint()
            lacks = sum(all(store.get(place + key_id) is None for place in _PLACES) for key_id in key_ids)
            note, rotates = store.get(rows.CHECKPOINT_KEY), store.get(rows.NEXT_SIGNING_KEY) is not None
            return RememberedState(note, complaint, readable=True, lacks=lacks, rotates=rotates)
        finally:
            store.close()
    except CofferError as error:
        return RememberedState(None, str(error), readable=False)


if __name__ == "__main__":
    given = sys.stdin.buffer.read()
    seen = _read(Path(sys.argv[1]), [given[at : at + _ID_BYTES] for at in range(0, len(given), _ID_BYTES)])
    encoded = None if seen.note is None else base64.b64encode(seen.note).decode()
    facts = {
        "update": encoded,
        "complaint": seen.complaint,
        "readable": seen.readable,
        "lacks": seen.lacks,
        "rotates": seen.rotates,
    }
    sys.stdout.write(json.dumps(facts) + "\n")
