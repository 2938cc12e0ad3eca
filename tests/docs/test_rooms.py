"""What only one room of a floor may know, so that another store or lock can take its place: held against the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KNOWN_IN = {
    "where a segment's file lies": (
        r"segment_files\.path\(|\.seg\b",
        {"archive/store/segment_files.py"},
    ),
    "flock": (r"\bflock\(", {"keys/disk/lock.py"}),
    "the room on a volume": (r"\bstatvfs\(|\bdisk_usage\b", {"keys/disk/volume.py"}),
    "LMDB": (
        r"\bimport lmdb\b",
        {
            "keys/disk/lmdb_environment.py",
            "keys/disk/lmdb_pages.py",
            "keys/store/lmdb_store.py",
            "index/backends/lmdb_store.py",
        },
    ),
}


@pytest.mark.parametrize("what", KNOWN_IN)
def test_only_one_room_knows(what: str) -> None:
    pattern, homes = KNOWN_IN[what]
    found = {
        str(path.relative_to(ROOT))
        for floor in ("keys", "archive", "index", "server")
        for path in (ROOT / floor).rglob("*.py")
        if re.search(pattern, "\n".join(line.split("#")[0] for line in path.read_text(encoding="utf-8").split("\n")))
    }
    assert found == homes
