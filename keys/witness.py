"""Look at a keyring without its key: what it remembers of the log, and whether its rows are those that were written.

    python -m keys.witness FOLDER

Rule: LMDB trusts its pages and may crash the process on damaged ones, so that another process reads them. It unwraps no
key and writes nothing. The command prints one line of JSON: `note` (base64 or null), `complaint` (or null), `readable`.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keys import rows
from keys.errors import CofferError, FormatError
from keys.store import RowStore

__all__ = ["Witness", "read_witness"]

_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Witness:
    """The signed note that the keyring remembers, if any, what is wrong with its rows, if anything, and whether every
    row could be read all the same."""

    note: bytes | None
    complaint: str | None
    readable: bool


def read_witness(folder: Path) -> Witness:
    """Look at the keyring in `folder`, in a process of its own, beside whoever writes it. Damage is a complaint."""
    command = [sys.executable, "-I", "-m", "keys.witness", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603  ourselves
        told = json.loads(done.stdout)
        note = None if told["note"] is None else base64.b64decode(told["note"])
        return Witness(note, told["complaint"], told["readable"])
    except subprocess.TimeoutExpired:
        return Witness(None, f"reading it took longer than {_SECONDS} s", readable=False)
    except (ValueError, KeyError, TypeError):
        return Witness(None, f"reading it ended without an answer, with {done.returncode}", readable=False)


def _look(folder: Path) -> Witness:
    try:
        store = RowStore(folder, readonly=True)
        try:
            header = store.get(rows.HEADER_KEY)
            if header is None:
                raise FormatError("the keyring has no header")
            rows.Header.decode(header)
            complaint = store.complaint()
            return Witness(store.get(rows.WITNESS_KEY), complaint, readable=True)
        finally:
            store.close()
    except CofferError as error:
        return Witness(None, str(error), readable=False)


if __name__ == "__main__":
    seen = _look(Path(sys.argv[1]))
    encoded = None if seen.note is None else base64.b64encode(seen.note).decode()
    sys.stdout.write(json.dumps({"note": encoded, "complaint": seen.complaint, "readable": seen.readable}) + "\n")
