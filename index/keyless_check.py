"""Check an index without any key: whether its rows are those that were written.

    python -I -m coffer.index.keyless_check FOLDER ARCHIVE_ID

Rule: LMDB trusts its pages and may crash the process on damaged ones, so another process reads them. The index is a
view of the log: a damaged one is repaired by rebuilding it. The command prints one line of JSON: `complaint`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.keys.disk import opening
from coffer.keys.errors import CofferError

__all__ = ["check_index"]

_SECONDS: Final = 3600


def check_index(folder: Path, archive_id: bytes) -> str | None:
    """What is wrong with an archive's index, or None. Another process reads it, safely beside the one that writes."""
    command = [sys.executable, "-I", "-m", "coffer.index.keyless_check", str(folder), archive_id.hex()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603  ourselves
        complaint = json.loads(done.stdout)["complaint"]
        return None if complaint is None else str(complaint)
    except subprocess.TimeoutExpired:
        return f"reading it took longer than {_SECONDS} s"
    except (ValueError, KeyError, TypeError):
        return f"the process that reads it ended with {done.returncode} and no answer"


def _complaint(folder: Path, archive_id: bytes) -> str | None:
    try:
        opening.distrust(folder.parent)  # the archive folder: this is a process of its own
        store = LmdbRowStore(folder, readonly=True)
        try:
            owner = store.get("meta", b"archive")
            return "it belongs to another archive" if owner not in {None, archive_id} else store.complaint()
        finally:
            store.close()
    except CofferError as error:
        return str(error)


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"complaint": _complaint(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]))}) + "\n")
