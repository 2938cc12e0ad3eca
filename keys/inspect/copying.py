"""Copy a keyring that may be in use, in one consistent state, without any key.

    python -I -m coffer.keys.inspect.copying FOLDER FD

Rule: LMDB trusts its pages and may crash the process on damaged ones, so a separate process reads them. What is copied
are the rows as they are, every key in them wrapped; free pages, with what was removed, stay behind. The command writes
the copy to the descriptor and prints one line of JSON: `note` (base64 or null), `feed`, `epoch` and `complaint` (or
null).
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from coffer.keys.disk import opening
from coffer.keys.errors import CofferError, IntegrityError
from coffer.keys.keyring import rows
from coffer.keys.store.lmdb_store import LmdbKeyringStore

__all__ = ["CopiedKeyring", "copy_keyring"]

_SECONDS: Final = 3600
_NONE: Final = {"note": None, "feed": 0, "epoch": 0}


@dataclass(frozen=True, slots=True)
class CopiedKeyring:
    """What a copy says of itself: the signed note of the checkpoint that it remembers, the number of its feed's newest
    entry, and its newest epoch."""

    note: bytes
    feed: int
    epoch: int


def copy_keyring(folder: Path, into: BinaryIO) -> CopiedKeyring:
    """Write a copy of the keyring's database in `folder` into an open, empty file. Every record below the checkpoint
    that it remembers has its key in the copy, unless that is destroyed.

    Nothing is durable on return. Safe beside a writer. Raises IntegrityError if the keyring is missing or damaged.
    """
    command = [sys.executable, "-I", "-m", "coffer.keys.inspect.copying", str(folder), str(into.fileno())]
    try:
        done = subprocess.run(  # noqa: S603  ourselves
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False,
            pass_fds=(into.fileno(),),
        )  # fmt: skip
        answer = json.loads(done.stdout)
        note = None if answer["note"] is None else base64.b64decode(answer["note"])
        feed, epoch, complaint = int(answer["feed"]), int(answer["epoch"]), answer["complaint"]
    except subprocess.TimeoutExpired:
        note, feed, epoch, complaint = None, 0, 0, f"copying it took longer than {_SECONDS} s"
    except (ValueError, KeyError, TypeError):
        note, feed, epoch, complaint = None, 0, 0, f"copying it ended with {done.returncode} and no answer"
    if note is None or complaint is not None:
        raise IntegrityError(
            f"the keyring cannot be copied: {complaint or 'it remembers no checkpoint'}",
            hint="coffer recover show names the remedies",
        )
    return CopiedKeyring(note, feed, epoch)


def _copy(folder: Path, fd: int) -> dict[str, Any]:
    try:
        opening.distrust(folder.parent)
        store = LmdbKeyringStore(folder, readonly=True)
        try:
            note, feed, header = store.copy(fd, (rows.CHECKPOINT_KEY, rows.CHANGES_KEY, rows.HEADER_KEY))
            said = {
                "note": None if note is None else base64.b64encode(note).decode(),
                "feed": int.from_bytes(feed or b"", "big"),
                "epoch": rows.KeyringHeader.decode(header or b"").epoch,
            }
            return said | {"complaint": store.complaint()}
        finally:
            store.close()
    except CofferError as error:
        return _NONE | {"complaint": str(error)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_copy(Path(sys.argv[1]), int(sys.argv[2]))) + "\n")
