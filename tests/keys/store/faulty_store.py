"""A keyring's store whose answers get lost, come late and change places; what it does, it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from coffer.keys.errors import UnavailableError
from coffer.keys.store.keyring_store import KeyringStore, Row

_LATEST = 0.0005  # seconds


class FaultyStore:
    """Wraps a store: of its changes some are refused before they are made, some fail after that, all come late."""

    def __init__(self, inner: KeyringStore, seed: int, lost: float = 0.2) -> None:
        self._inner = inner
        self._random = Random(seed)
        self._lost = lost
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _chance(self) -> float:
        with self._lock:
            return self._random.random()

    def put(
        self,
        rows: Sequence[Row],
        removed: Sequence[bytes] = (),
        expected: Sequence[tuple[bytes, bytes | None]] = (),
        gone: Sequence[bytes] = (),
    ) -> bool:
        time.sleep(self._chance() * _LATEST)  # another thread's change passes this one
        if self._chance() < self._lost / 2:
            raise UnavailableError("the request was lost")
        done = self._inner.put(rows, removed, expected, gone)
        time.sleep(self._chance() * _LATEST)
        if self._chance() < self._lost:
            raise UnavailableError("the answer was lost")
        return done


def settled(
    store: KeyringStore,
    rows: Sequence[Row],
    removed: Sequence[bytes] = (),
    expected: Sequence[tuple[bytes, bytes | None]] = (),
    gone: Sequence[bytes] = (),
) -> bool:
    """Put until there is an answer, as a careful caller does: False after a lost answer may be one's own change."""
    was_lost = False
    while True:
        try:
            done = store.put(rows, removed, expected, gone)
        except UnavailableError:
            was_lost = True
            continue
        if done or not was_lost:
            return done
        wanted = dict.fromkeys(removed) | dict(rows)
        return list(store.get_many(list(wanted))) == list(wanted.values())
