"""Every implementation of the keyring's store, alone and behind lost and late answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.keys.memory.secret import Secret
from coffer.keys.store.keyring_store import KeyringStore
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.memory_store import MemoryKeyringStore
from coffer.keys.store.sums import RowSums
from tests.keys.store.faulty_store import FaultyStore

SEED = 20261130


@pytest.fixture(params=["memory", "lmdb", "faulty memory", "faulty lmdb"])
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyringStore]:
    """A store without a row."""
    kind = request.param
    real: KeyringStore
    real = MemoryKeyringStore() if "memory" in kind else LmdbKeyringStore(tmp_path / "rows", create=True)
    yield FaultyStore(real, SEED) if "faulty" in kind else real
    real.close()


@pytest.fixture
def store(bare: KeyringStore) -> KeyringStore:
    """A store that has begun, with no row but its own."""
    assert bare.begin([], RowSums.under(Secret(bytes(32)), os.urandom))
    return bare
