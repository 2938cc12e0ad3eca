"""Move every key of a keyring under a new epoch's KEK; no stored object is touched.

Rule: resumable at every step. First, in one transaction, the new epoch's row, the archive's own keys under it, and the
header that makes it current: from then on new keys go under it, in every process. Then the study keys, page by page.
Last the old epochs are retired. A rotation that was stopped is recognised by an older epoch that is still active. A row
that another process changed meanwhile is read again (`RowStore.put` with `expected`). Whoever calls holds the keyring's
`ChangeLock`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from coffer.keys.crypto import aead
from coffer.keys.errors import FormatError, IntegrityError, KeyUnavailableError, LockedError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Keeper, keepers_in, require_keeper
from coffer.keys.keyring.overview import epoch_rows, header_in, partly_rotated
from coffer.keys.keyring.rows import (
    GONE,
    EpochRow,
    EpochState,
    KeyringHeader,
    KeyRow,
    KeyState,
)
from coffer.keys.keyring.store import RowStore
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import KekProvider

__all__ = ["Rotated", "rotate"]

_PAGE: Final = 2000


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did: the epoch that is current now, its provider's kind, how many study keys moved to it, and
    whether it went on with one that had been stopped."""

    epoch: int
    provider: str
    rewrapped: int
    resumed: bool


class _Keks:
    """The KEKs by epoch, each opened when a row first names it: a lost provider that keeps no key stops nobody.

    `known` are those that are in memory, with the KEK's id; what is opened joins them.
    """

    def __init__(
        self, store: RowStore, provider: KekProvider, archive_id: bytes, known: dict[int, tuple[bytes, Secret]]
    ) -> None:
        self._store = store
        self._provider = provider
        self._archive_id = archive_id
        self._known = known
        self._opened: dict[int, tuple[bytes, Secret]] = {}

    def of(self, epoch: int) -> tuple[bytes, Secret]:
        """The KEK's id and the KEK. Raises KeyUnavailableError for an epoch that is gone, and as its provider."""
        if epoch not in self._opened:
            value = self._store.get(rows.epoch_row_key(epoch))
            row = EpochRow.decode(value) if value is not None else None
            if row is None or row.state in GONE:
                raise KeyUnavailableError(f"a key is wrapped under epoch {epoch}, which cannot be opened")
            kek_id, kek = self._known.get(epoch, (b"", None))
            self.add(row, kek if kek is not None and kek_id == row.kek_id else self.unwrapped(row))
        return self._opened[epoch]

    def unwrapped(self, row: EpochRow) -> Secret:
        """An epoch's KEK from its provider, whatever is in memory."""
        context = rows.epoch_context(self._archive_id, row.kek_id, row.epoch)
        return self._provider.of_kind(row.provider).unwrap(row.wrapped, context)

    def add(self, row: EpochRow, kek: Secret) -> None:
        """Use this KEK for an epoch from now on."""
        self._opened[row.epoch] = self._known[row.epoch] = row.kek_id, kek


def rotate(  # noqa: PLR0917  # what a keyring is made of
    store: RowStore,
    provider: KekProvider,
    known: dict[int, tuple[bytes, Secret]],
    random: Callable[[int], bytes],
    now_ms: Callable[[], int],
    progress: Callable[[int, int], None],
    event: Callable[[Rotated], tuple[bytes, bytes]] | None = None,
) -> Rotated:
    """Rotate, or finish a rotation that was stopped; durable on return. `progress` gets study keys done and in all.

    The row that `event` makes is written with the last step. `known` holds the KEKs that are in memory, by epoch. One
    call of the provider makes the new KEK and one opens it again, before anything moves under it; an old one is asked
    for where it is not in memory and a row names it. Raises LockedError where another process changes epochs all the
    same, what the provider raises, and what `progress` raises; then running it again goes on.
    """
    was = header_in(store)
    keks = _Keks(store, provider, was.archive_id, known)
    resumed = bool(partly_rotated(store))
    if not resumed:
        _begin(store, provider, keks, random, now_ms)
    current = next(row for row in epoch_rows(store) if row.epoch == header_in(store).epoch)
    require_keeper(current, keepers_in(store, current.epoch))
    if resumed:
        keks.add(current, keks.unwrapped(current))
    total, done, moved, after = store.walk(rows.STUDY_PREFIX, lambda _key, _value: None), 0, 0, b""
    while page := store.page(rows.STUDY_PREFIX, after, _PAGE):
        moved += _rewrap(store, page, current, keks, was.archive_id, random)
        done, after = done + len(page), page[-1][0]
        progress(done, max(total, done))
    rotated = Rotated(current.epoch, current.provider, moved, resumed)
    _retire(store, current.epoch, [] if event is None else [event(rotated)])
    return rotated


def _begin(
    store: RowStore,
    provider: KekProvider,
    keks: _Keks,
    random: Callable[[int], bytes],
    now_ms: Callable[[], int],
) -> None:
    """Make the new epoch current. A stop before the transaction leaves a secret that nothing is wrapped under.

    Nothing is, either, unless the provider opens what it has just wrapped: it is asked anew, for what it keeps.
    """
    was_bytes = store.get(rows.HEADER_KEY)
    own = [(row_key, store.get(row_key)) for row_key in rows.OWN_KEYS]
    if was_bytes is None or own[0][1] is None:
        raise FormatError("the keyring lacks its header or its root key", hint="restore it from its backup")
    was = KeyringHeader.decode(was_bytes)
    epoch, kek_id = was.epoch + 1, random(16)
    context = rows.epoch_context(was.archive_id, kek_id, epoch)
    kek, wrapped = provider.create_epoch(epoch, context)
    new = EpochRow(EpochState.ACTIVE, epoch, kek_id, now_ms(), provider.kind, wrapped)
    if not keks.unwrapped(new).matches(kek):
        raise KeyUnavailableError(
            f"the {provider.kind} provider does not open what it has just wrapped",
            hint="no key was moved: say it again",
        )
    keeper = Keeper.of(epoch, provider.kind, provider.holding(epoch))
    changes = store.get(rows.CHANGES_KEY)
    fresh = [
        rows.incremented(changes),
        (rows.HEADER_KEY, replace(was, epoch=epoch).encode()),
        (rows.epoch_row_key(epoch), new.encode()),
        (keeper.row_key, keeper.encode()),
    ]
    fresh += [
        (row_key, _rewrapped(KeyRow.decode(value), rows.NO_ID, new, kek, keks, was.archive_id, random))
        for row_key, value in own
        if value is not None
    ]
    expected = [(rows.HEADER_KEY, was_bytes), (rows.CHANGES_KEY, changes), *own]
    if not store.put(fresh, expected=expected):
        raise LockedError("another process changes the keys", hint="wait for it, then look at coffer keys list")
    keks.add(new, kek)


def _rewrapped(  # noqa: PLR0917  # the parts of a row, its old and its new place
    row: KeyRow,
    key_id: bytes,
    new: EpochRow,
    kek: Secret,
    keks: _Keks,
    archive_id: bytes,
    random: Callable[[int], bytes],
) -> bytes:
    """A key row's bytes with the same key under the new epoch's KEK."""
    kek_id, old = keks.of(row.epoch)
    if row.kek_id != kek_id:
        raise IntegrityError("a row of the keyring was altered", hint="restore the keyring from its backup")
    key = row.unwrap(old, archive_id, key_id)
    moved = KeyRow(row.purpose, row.state, new.epoch, new.kek_id, row.created_ms)
    return moved.wrap(kek, archive_id, key_id, key, random(aead.SALT))


def _rewrap(  # noqa: PLR0917
    store: RowStore,
    page: list[tuple[bytes, bytes]],
    new: EpochRow,
    keks: _Keks,
    archive_id: bytes,
    random: Callable[[int], bytes],
) -> int:
    """Move a page's keys; returns how many were not there yet. A row that is gone or new since is looked at again."""
    kek = keks.of(new.epoch)[1]
    while True:
        old = [(row_key, value, row) for row_key, value in page if _needs_move(row := KeyRow.decode(value), new)]
        if not old:
            return 0
        fresh = [(row_key, _rewrapped(row, row_key[1:], new, kek, keks, archive_id, random)) for row_key, _, row in old]
        if store.put(fresh, expected=[(row_key, value) for row_key, value, _ in old]):
            return len(fresh)
        again = ((row_key, store.get(row_key)) for row_key, _ in page)
        page = [(row_key, value) for row_key, value in again if value is not None]


def _needs_move(row: KeyRow, new: EpochRow) -> bool:
    """A shredded key is left behind: it ends with its epoch."""
    return row.epoch != new.epoch and row.state is not KeyState.SHRED_SCHEDULED


def _retire(store: RowStore, current: int, events: list[tuple[bytes, bytes]]) -> None:
    old = [row for row in epoch_rows(store) if row.epoch != current and row.state is EpochState.ACTIVE]
    row_keys = [rows.epoch_row_key(row.epoch) for row in old]
    put = [
        (row_key, replace(row, state=EpochState.RETIRED).encode()) for row_key, row in zip(row_keys, old, strict=True)
    ]
    expected = [(row_key, row.encode()) for row_key, row in zip(row_keys, old, strict=True)]
    if not old or not store.put([*put, *events], expected=expected):
        raise LockedError("another process rotates the keys", hint="wait for it, then look at coffer keys list")
