"""What a keyring says of itself without any key: its epochs, who keeps each, and which shares were made.

Rule: reads only and unwraps nothing, so that an administrator sees where the keys are when no provider opens them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from keys import rows
from keys.errors import FormatError
from keys.rows import EpochRow, EpochState, Header, KeyRow
from keys.shares import Group
from keys.store import RowStore

__all__ = ["EpochInfo", "Overview", "epochs_in", "groups_in", "overview"]


@dataclass(frozen=True, slots=True)
class EpochInfo:
    """One epoch for an administrator: number, kind of provider, state, creation (ms since 1970), study rows."""

    epoch: int
    provider: str
    state: EpochState
    created_ms: int
    rows: int


@dataclass(frozen=True, slots=True)
class Overview:
    """The current epoch, every epoch ascending, and every group of shares, oldest first."""

    current: int
    epochs: tuple[EpochInfo, ...]
    groups: tuple[Group, ...]


def epochs_in(store: RowStore) -> list[EpochInfo]:
    """Return every epoch a keyring ever had, ascending, with the number of study rows under each."""
    used: Counter[int] = Counter()
    store.walk(rows.STUDY_PREFIX, lambda _, value: used.update((KeyRow.decode(value).epoch,)))
    found = (EpochRow.decode(value) for _, value in store.scan(rows.EPOCH_PREFIX))
    return [EpochInfo(row.epoch, row.provider, row.state, row.created_ms, used[row.epoch]) for row in found]


def groups_in(store: RowStore) -> list[Group]:
    """Return the groups of shares that were made, oldest first."""
    found = (Group.decode(value) for _, value in store.scan(rows.SHARES_PREFIX))
    return sorted(found, key=lambda of: (of.made_s, of.group))


def overview(folder: Path) -> Overview:
    """Look at the keyring in `folder` beside whoever writes it. Raises NotFoundError, FormatError, IntegrityError."""
    store = RowStore(folder, readonly=True)
    try:
        header = store.get(rows.HEADER_KEY)
        if header is None:
            raise FormatError("the keyring has no header", hint="restore it from its backup")
        return Overview(Header.decode(header).epoch, tuple(epochs_in(store)), tuple(groups_in(store)))
    finally:
        store.close()
