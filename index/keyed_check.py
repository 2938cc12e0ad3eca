"""Check an index with its key: whether its rows are those that were written, whoever wrote to the disk since.

Rule: reads only, beside the process that writes. LMDB may crash on damaged pages: look without a key before
(`index.keyless_check`), in another process.
"""

from __future__ import annotations

from pathlib import Path

from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.keys.crypto.derive import INDEX_SUM
from coffer.keys.keyring.keyring import Keyring

__all__ = ["check_with_key"]


def check_with_key(folder: Path, keyring: Keyring) -> str | None:
    """Return what is wrong with an archive's index, or None. Raises NotFoundError where there is none, IntegrityError,
    UnavailableError."""
    store = LmdbRowStore(folder, readonly=True)
    try:
        store.authenticate(keyring.archive_key(INDEX_SUM), bytes)
        return store.complaint()
    finally:
        store.close()
