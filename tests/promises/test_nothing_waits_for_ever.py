"""Promise: whoever writes LMDB's lock files makes nothing wait for ever, and reading goes on where writing has ended.

Adversary: who writes the disk, at the time at which Coffer works in the folder; and a volume that refuses the one page
that makes a change of LMDB's count. Refused means: in a bounded time, with the file named, and a remedy that works.
Crossed with: keyring and index, storing, finding and getting. The file itself: `tests/keys/disk/test_lmdb_file.py`.
Not: who writes the lock file within the microseconds between a look at a lock and its taking (docs/threat-model.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.keys.disk import lmdb_file
from coffer.keys.errors import UnavailableError
from coffer.server.engine.archive import WritableArchive
from tests.keys.disk.test_lmdb_file import WRITER, break_meta_page, hold
from tests.promises.kept import Kept

CHANGES: dict[str, Callable[[WritableArchive], object]] = {
    "keyring": lambda archive: archive.keyring.new_study(),
    "index": lambda archive: archive.index.flush(),
}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    made = Kept.create(tmp_path / "kept")
    with made.opened() as archive:
        assert made.put(archive, 1, 1, 2) == [0, 0]
    return made


@pytest.mark.parametrize("part", CHANGES)
def test_a_lock_that_nobody_releases(kept: Kept, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_file, "_PATIENCE_SECONDS", 1.0)
    with kept.opened() as archive:
        assert kept.put(archive, 1, 3) == [0]
        hold(kept.archive / part, WRITER)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="was not free for 1 s") as refused:
            CHANGES[part](archive)
        assert time.monotonic() - began < 10
        assert f"remove {kept.archive / part / 'lock.mdb'}" in refused.value.hint()
        assert kept.missing(archive) == set()


@pytest.mark.parametrize("part", CHANGES)
def test_a_meta_page_that_cannot_be_written(kept: Kept, part: str) -> None:
    with kept.opened() as archive:
        assert kept.put(archive, 1, 3) == [0]
        break_meta_page(kept.archive / part)
        for _ in range(2):
            with pytest.raises(UnavailableError):
                CHANGES[part](archive)
            assert kept.missing(archive) == set()
        assert kept.put(archive, 2, 1) != [0]
        assert kept.missing(archive) == set()
    with kept.opened() as archive:
        assert kept.put(archive, 2, 1) == [0]
        assert kept.missing(archive) == set()
