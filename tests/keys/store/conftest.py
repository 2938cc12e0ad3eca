"""Every implementation of the keyring's store, alone and behind lost and late answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.keys.store.keyring_store import KeyringStore
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.memory_store import MemoryKeyringStore
from tests.keys.store.faulty_store import FaultyStore

SEED = 20261130


@pytest.fixture(params=["memory", "lmdb", "faulty memory", "faulty lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyringStore]:
    kind = request.param
    real: KeyringStore
    real = MemoryKeyringStore() if "memory" in kind else LmdbKeyringStore(tmp_path / "rows", create=True)
    yield FaultyStore(real, SEED) if "faulty" in kind else real
    real.close()
