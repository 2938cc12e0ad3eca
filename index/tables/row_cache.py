"""Opened rows of studies and series, and the references under their names, kept in memory.

Rule: a view of what is put and stored. What was read while something changed is not kept: it may be older than what is
there now. Instances are not kept: there are too many.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from coffer.index.tables.row_cipher import INSTANCE, Ref, Row

__all__ = ["RowCache"]

_CACHED: Final = 8192  # rows, and names
_INSTANCE_BYTES: Final = 16  # of a reference


class RowCache:
    """Thread-safe. `generation` changes with every change; take it before reading what is to be kept."""

    def __init__(self, *, keeps_names: bool) -> None:
        """`keeps_names`: only the process that writes the names knows when they change."""
        self.generation = 0
        self._rows: OrderedDict[Ref, Row] = OrderedDict()
        self._names: dict[bytes, list[Ref]] = {}
        self._keeps_names = keeps_names
        self._lock = threading.Lock()

    def row(self, ref: Ref) -> Row | None:
        """Return a row if it is kept."""
        with self._lock:
            found = self._rows.get(ref)
            if found is not None:
                self._rows.move_to_end(ref)
            return found

    def keep(self, ref: Ref, row: Row, generation: int) -> None:
        """Keep a row that was read after `generation` was taken, unless something changed since."""
        if len(ref) != _INSTANCE_BYTES:
            with self._lock:
                if generation == self.generation:
                    self._keep(ref, row)

    def put(self, ref: Ref, row: Row) -> None:
        """Keep a row that is new."""
        if len(ref) != _INSTANCE_BYTES:
            with self._lock:
                self.generation += 1
                self._keep(ref, row)

    def _keep(self, ref: Ref, row: Row) -> None:
        self._rows[ref] = row
        self._rows.move_to_end(ref)
        while len(self._rows) > _CACHED:
            self._rows.popitem(last=False)

    def drop(self, ref: Ref) -> None:
        """Drop a row that was removed."""
        with self._lock:
            self._rows.pop(ref, None)

    def drop_below(self, study: Ref) -> None:
        """Drop the rows of a study."""
        with self._lock:
            self.generation += 1
            for ref in [ref for ref in self._rows if ref[:8] == study]:
                del self._rows[ref]

    def names(self, token: bytes) -> list[Ref] | None:
        """Return the references under a token if they are kept; the list must not be changed."""
        with self._lock:
            return self._names.get(token)

    def keep_names(self, token: bytes, refs: list[Ref], generation: int) -> None:
        """As `keep`, for the references under a token: another entity may have been given this name meanwhile."""
        if self._keeps_names and token[0] != INSTANCE:
            with self._lock:
                if generation == self.generation:
                    if len(self._names) >= _CACHED:
                        self._names.clear()
                    self._names[token] = refs

    def drop_names(self, token: bytes) -> None:
        """Drop the references under a token: they have changed."""
        with self._lock:
            self.generation += 1
            self._names.pop(token, None)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self.generation += 1
            self._rows.clear()
            self._names.clear()
