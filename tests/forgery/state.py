"""What an archive folder says, apart from room that nothing claims: two folders with equal states are the same archive.

Keyring and index count by their rows, segments without the zeros behind their records, lock files not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.keys.errors import CofferError
from coffer.keys.inspect import remembered
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from tests.forgery.kit import index_rows
from tests.forgery.world import files_of
from tests.keyless import rows_of

Items = dict[str, bytes]  # by name: a file's path, or a part of the keyring or the index
KEYRING, INDEX = "keyring/data.mdb", "index/data.mdb"
_NO_MEANING = ("LOCK", "keyring/LOCK")


@dataclass(frozen=True, slots=True)
class State:
    """Everything by name: files by their path, rows of the keyring as `keyring:<hex>`, of the index as `index:…`."""

    items: Mapping[str, bytes]

    @classmethod
    def of(cls, folder: Path, *, damaged: Collection[str] = ()) -> State:
        """That of a folder. `damaged`: files of LMDB that LMDB alone must not be trusted with."""
        items: Items = {}
        for name, data in files_of(folder).items():
            if name in _NO_MEANING:
                continue
            if name.startswith("segments/"):
                items[name] = data.rstrip(b"\0")
            elif not name.endswith("data.mdb"):
                items[name] = data
            elif name not in damaged:
                items |= _rows(folder, name)
            else:
                items |= _checked_rows(folder, name) or {name: sha256(data).digest()}
        return cls(items)

    def differing(self, other: State) -> set[str]:
        """The names of what differs."""
        names = self.items.keys() | other.items.keys()
        return {name for name in names if self.items.get(name) != other.items.get(name)}


def _rows(folder: Path, name: str) -> Items:
    if name == KEYRING:
        return _of_keyring(rows_of(folder / "keyring").items())
    return _of_index(index_rows.rows_of(folder / "index"))


def _of_keyring(rows: Iterable[tuple[bytes, bytes]]) -> Items:
    return {f"keyring:{key.hex()}": value for key, value in rows} | {KEYRING: b""}


def _of_index(rows: Iterable[index_rows.Row]) -> Items:
    named = {f"index:{table}:{key.hex()}:{sha256(value).hexdigest()}": value for table, key, value in rows}
    return named | {INDEX: b""}


def _checked_rows(folder: Path, name: str) -> Items | None:
    """The rows as Coffer reads them, which checks every page; None if it does not."""
    rows: list[tuple[bytes, bytes]] = []
    try:
        if name == KEYRING:
            keyring = LmdbKeyringStore(folder / "keyring", readonly=True)
            try:
                keyring.walk(b"", lambda key, value: rows.append((key, value)))
            finally:
                keyring.close()
            return _of_keyring(rows)
        index = LmdbRowStore(folder / "index", readonly=True)
        index.close()  # each page was checked
        return _of_index(index_rows.rows_of(folder / "index"))
    except CofferError:
        return None


def keyring_note(folder: Path) -> bytes | None:
    """The note that the keyring remembers, read without its key; None if there is none, or it cannot be read."""
    return remembered._read(folder / "keyring").note
