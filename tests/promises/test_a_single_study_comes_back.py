"""Promise: one study comes back from a backup, bit for bit, and nothing that was erased, planted or not asked for.

Adversary: who has a target and can change everything at it, and who has an older snapshot. Crossed with: an archive
that is here or gone, and the role of who restores.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import zlib
from pathlib import Path

import pytest

from coffer.archive.copies.folder_target import FolderTarget
from coffer.archive.events.repairs import ObjectsRestored
from coffer.archive.format.record import HEADER, Kind
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.server.config.load import load_config
from tests.server.backed_up import base, lose, made, original, snapshots
from tests.server.filled import part10, run, told
from tests.server.three_studies import UIDS, events, slices

__all__ = ["base", "made"]

REASON = ("--reason", "r")
ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name


def files_of(study_uid: str, where: str = "files") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(where, study_uid).rglob("*.dcm")}


def test_a_single_study_comes_back_as_files_and_the_archive_here_records_it(base: Path) -> None:
    done = told("restore", "latest", "files", "--study", UIDS[0])
    back = files_of(UIDS[0])
    assert back == {name: data for name, data in original().items() if name in back}
    assert (done["written"], done["existed"], done["failed"], done["recorded"]) == (len(back), 0, [], True)
    assert len(back) == 3
    assert not Path("files", UIDS[1]).exists()
    again = told("restore", "latest", "files", "--study", UIDS[0])
    assert (again["written"], again["existed"]) == (0, 3)
    run("checkpoint", "sign")
    first, second = events(ObjectsRestored)
    assert (first.snapshot, first.files) == (done["snapshot"], 3)
    assert len(first.opened_by) == 1
    assert second.opened_by == first.opened_by


def test_a_single_study_comes_back_where_nothing_of_the_archive_is_left(base: Path) -> None:
    lose("data")
    done = told("restore", "latest", "files", "--study", UIDS[1])
    assert (done["written"], done["recorded"]) == (3, False)
    back = files_of(UIDS[1])
    assert back == {name: data for name, data in original().items() if name in back}
    run("restore", "latest", "data")
    run("index", "rebuild")


def test_only_what_a_single_study_needs_is_read(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = next(slices(UIDS[2], "P-99"))
    large.add_new(0x00420011, "OB", os.urandom(4 << 20))
    Path("large.dcm").write_bytes(part10(large))
    run("put", "large.dcm")
    told("backup", "run")
    read, asked = FolderTarget.read, list[int]()

    def counting(self: FolderTarget, name: str, offset: int, length: int) -> bytes:
        asked.append(length)
        return read(self, name, offset, length)

    monkeypatch.setattr(FolderTarget, "read", counting)
    told("restore", "latest", "files", "--study", UIDS[0])
    assert sum(asked) < 2 << 20
    asked.clear()
    told("restore", "latest", "files", "--study", UIDS[2])
    assert sum(asked) > 4 << 20


@pytest.mark.parametrize("is_here", [True, False])
def test_a_single_study_that_was_erased_stays_erased(base: Path, is_here: bool) -> None:
    """Also from a snapshot of before, whose own copy of the keyring still has its key."""
    before = snapshots()[0]
    run("shred", "study", UIDS[0], "--yes", *REASON)
    told("backup", "run")
    if not is_here:
        Path("data").rename("away")
    refused = run("restore", before, "files", "--study", UIDS[0], code=5)
    assert "no key opens an object of this study" in refused.output
    assert not Path("files").exists()
    if not is_here:
        Path("away").rename("data")


def test_a_single_study_is_believed_only_under_the_signed_root(base: Path) -> None:
    """A header that was changed, with its checksum: no piece's hash is looked at, and each object still opens."""
    (path,) = (base / "data" / "segments").iterdir()
    piece = hashlib.sha256(path.read_bytes()).hexdigest()
    (stored,) = (base / "target").glob(f"*/pieces/*/{piece}")
    reader = LogReader(ArchiveFolder.open(Path("data")))
    at = next(position.offset for position, header in reader.records() if header.kind == Kind.OBJECT)
    reader.close()
    data = stored.read_bytes()
    header = bytearray(data[at : at + HEADER.size])
    header[100] ^= 1  # of the hash of the body
    header[156:] = zlib.crc32(header[:156]).to_bytes(4, "big")
    stored.write_bytes(data[:at] + header + data[at + HEADER.size :])
    refused = run("restore", "latest", "files", "--study", UIDS[0], code=3)
    assert "not those that were signed" in refused.output
    assert not Path("files").exists()


def test_who_may_not_export_restores_no_study(base: Path) -> None:
    run("users", "add", "boss", "--role", "admin", "--account", ACCOUNT)
    assert "export" in run("restore", "latest", "files", "--study", UIDS[0], code=10).output
    assert not Path("files").exists()
    run("restore", "latest", "new")  # the whole, sealed as it is
    (
        Path("users.toml") if Path("users.toml").exists() else Path(load_config(Path("coffer.toml")).access.users)
    ).unlink()


def test_a_snapshot_of_a_copy_that_went_on_gives_no_study_here(base: Path) -> None:
    """Whoever writes the target adds a drill's snapshot: the keys open it, and it has what was never stored here."""
    other = next(slices(UIDS[0], "P-4711"))
    other.SOPInstanceUID = "1.2.3.77"
    settings = Path("coffer.toml").read_text()
    shutil.copytree("data", "drill")
    shutil.copytree("state", "drill-state")
    Path("drill.toml").write_text(settings.replace("'data'", "'drill'").replace("'state/mark'", "'drill-state/mark'"))
    Path("more.dcm").write_bytes(part10(other))
    run("--config", "drill.toml", "put", "more.dcm", code=None)
    planted = told("--config", "drill.toml", "backup", "run")["snapshot"]
    for wanted in (str(planted), "latest"):
        assert "is of a copy that went on" in run("restore", wanted, "files", "--study", UIDS[0], code=13).stderr
    assert not Path("files").exists() or files_of(UIDS[0]) == {}
    run("restore", snapshots()[0], "files", "--study", UIDS[0])
    assert len(files_of(UIDS[0])) == 3
