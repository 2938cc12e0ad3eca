"""The golden target: this code writes it, and the second reader reads it, byte for byte."""

from dataclasses import replace
from pathlib import Path

import pytest

from coffer.archive.copies.folder_target import FolderTarget
from coffer.archive.copies.keyring_copies import KeyringCopies, KeyringCopy
from coffer.archive.copies.segments import as_archive
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import LATEST_MS, Snapshot
from coffer.archive.verify.verify import Verifier
from coffer.keys.crypto.recipient import Identity, opened
from coffer.keys.errors import FormatError, IntegrityError
from tests.vectors import make_copies, reader_copies

GOLDEN = make_copies.HERE / "copies"


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_the_golden_target_is_what_this_code_writes(tmp_path: Path) -> None:
    make_copies.write(tmp_path, make_copies.HERE / "log")
    made, golden = files(tmp_path), files(GOLDEN)
    assert made.keys() == golden.keys()
    differing = {name for name in made if made[name] != golden[name] and "keyring" not in name}
    assert differing == set()


def test_both_readers_read_it() -> None:
    (folder,) = GOLDEN.iterdir()
    read = reader_copies.snapshot(folder, make_copies.ID)
    shelf = Shelf(FolderTarget(GOLDEN), bytes.fromhex(folder.name))
    made = shelf.snapshot(make_copies.ID)
    with as_archive(shelf, made) as archive:
        assert list(Verifier(archive).findings()) == []
        store = archive.segment_store()
        for number, size in store.segments(0):
            assert store.open(0, number).read(0, size) == read[f"segments/{number:08d}.seg"]
    for name in ("checkpoints/history", "archive.json"):
        assert (make_copies.HERE / "log" / name).read_bytes() == read[name]


def test_both_readers_open_the_sealed_keyring() -> None:
    (folder,) = GOLDEN.iterdir()
    assert reader_copies.keyring(folder, make_copies.ID, make_copies.IDENTITY) == make_copies.KEYRING
    copies = KeyringCopies(Shelf(FolderTarget(GOLDEN), bytes.fromhex(folder.name)))
    copy = copies.find(make_copies.ID)
    identity = Identity.parse(make_copies.IDENTITY)
    data = b"".join(copies.read(copy))
    assert b"".join(opened([data], len(data), bytes.fromhex(folder.name), identity)) == make_copies.KEYRING
    for at in (3, 7, 20, 25, 600, 1300, 30_000, len(data) - 1):
        bad = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(Exception) as refused:
            b"".join(opened([bad], len(bad), bytes.fromhex(folder.name), identity))
        assert type(refused.value).__module__ == "coffer.keys.errors"
    with pytest.raises(IntegrityError):
        b"".join(opened([data[:-17]], len(data) - 17, bytes.fromhex(folder.name), identity))


def test_a_time_that_no_calendar_knows_is_no_snapshot() -> None:
    """Whoever writes a target can put it there, and every command that shows a time would end on it."""
    (folder,) = GOLDEN.iterdir()
    snapshot = Snapshot.parse((folder / "snapshots" / f"{make_copies.ID}.json").read_bytes())
    copy = KeyringCopies(Shelf(FolderTarget(GOLDEN), bytes.fromhex(folder.name))).find(make_copies.ID)
    assert Snapshot.parse(replace(snapshot, made_ms=LATEST_MS).serialize()).made_ms == LATEST_MS
    with pytest.raises(FormatError):
        Snapshot.parse(replace(snapshot, made_ms=LATEST_MS + 1).serialize())
    with pytest.raises(FormatError):
        KeyringCopy.parse(replace(copy, made_ms=LATEST_MS + 1).serialize())
