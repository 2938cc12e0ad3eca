"""Move every key of a keyring under a new epoch's KEK; no stored object is touched.

Rule: resumable at every step. First one transaction writes the new epoch's row, the archive's own keys under it, and
the header that makes it current: from then on every process wraps new keys under it. Then the study keys move, page by
page. Last the old epochs are retired. An older epoch that is still active marks an interrupted rotation. A row that
another process changed meanwhile is read again (`KeyringStore.put` with `expected`). The caller holds the keyring's
lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from coffer.keys.errors import FormatError, IntegrityError, KeyUnavailableError, LockedError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Keeper, keepers_in, require_keeper
from coffer.keys.keyring.overview import epoch_rows, header_in, partly_rotated
from coffer.keys.keyring.rows import EpochRow, KeyringHeader, KeyRow, KeyState
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import KekProvider
from coffer.keys.store.keyring_store import KeyringStore, Row
from coffer.keys.store.writes import SOMETHING_ELSE
from coffer.keys.values.epoch import GONE, EpochState
from coffer.keys.values.waiting_event import WaitingEvent

__all__ = ["Rotated", "rotate"]

_PAGE: Final = 2000


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did: the epoch that is now current, its provider's kind, how many study keys moved to it, and
    whether it resumed an interrupted rotation."""

    epoch: int
    provider: str
    rewrapped: int
    resumed: bool


class _Keks:
    """KEKs by epoch, each opened when a row first names it, so a lost provider without keys under it blocks nothing.

    `known` holds the KEK ids and KEKs in memory; newly opened ones are added to it.
    """

    def __init__(
        self, store: KeyringStore, provider: KekProvider, archive_id: bytes, known: dict[int, tuple[bytes, Secret]]
    ) -> None:
        self._store = store
        self._provider = provider
        self._archive_id = archive_id
        self._known = known
        self._opened: dict[int, tuple[bytes, Secret]] = {}

    def of(self, epoch: int) -> tuple[bytes, Secret]:
        """Return the KEK's id and the KEK. Raises KeyUnavailableError for an epoch that is gone, and as its
        provider."""
        if epoch not in self._opened:
            value = self._store.get(rows.epoch_row_key(epoch))
            row = EpochRow.decode(value) if value is not None else None
            if row is None or row.state in GONE:
                raise KeyUnavailableError(f"a key is wrapped under epoch {epoch}, which cannot be opened")
            kek_id, kek = self._known.get(epoch, (b"", None))
            self.add(row, kek if kek is not None and kek_id == row.kek_id else self.unwrapped(row))
        return self._opened[epoch]

    def unwrapped(self, row: EpochRow) -> Secret:
        """Return an epoch's KEK as its provider opens it, whatever is in memory."""
        context = rows.epoch_context(self._archive_id, row.kek_id, row.epoch)
        return self._provider.of_kind(row.provider).unwrap(row.wrapped, context)

    def add(self, row: EpochRow, kek: Secret) -> None:
        """Use this KEK for the epoch from now on."""
        self._opened[row.epoch] = self._known[row.epoch] = row.kek_id, kek


def rotate(  # noqa: PLR0917  # what a keyring is made of
    store: KeyringStore,
    provider: KekProvider,
    known: dict[int, tuple[bytes, Secret]],
    random: Callable[[int], bytes],
    now_ms: Callable[[], int],
    progress: Callable[[int, int], None],
    event: Callable[[Rotated], WaitingEvent] | None = None,
) -> Rotated:
    """Rotate, or resume an interrupted rotation; durable on return. `progress` gets the study keys done and in total.

    What `event` makes is written with the last step. `known` holds the KEKs in memory, by epoch. One provider
    call makes the new KEK and one opens it again before anything moves under it; an old KEK is opened only where it is
    not in memory and a row names it. Raises LockedError where another process changes epochs despite the lock, and what
    the provider or `progress` raises; then the next call resumes.
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
    total, done, moved, after = store.count(rows.STUDY_PREFIX), 0, 0, b""
    while page := store.page(rows.STUDY_PREFIX, after, _PAGE):
        moved += _rewrap(store, page, current, keks, was.archive_id, random)
        done, after = done + len(page), page[-1][0]
        progress(done, max(total, done))
    rotated = Rotated(current.epoch, current.provider, moved, resumed)
    _retire(store, current.epoch, [] if event is None else [event(rotated)])
    return rotated


def _begin(
    store: KeyringStore,
    provider: KekProvider,
    keks: _Keks,
    random: Callable[[int], bytes],
    now_ms: Callable[[], int],
) -> None:
    """Make the new epoch current. A crash before the transaction leaves a secret that wraps nothing.

    Nothing is wrapped under the new KEK unless the provider, called again, opens what it has just wrapped.
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
            hint="no key was moved: run the command again",
        )
    keeper = Keeper.of(epoch, provider.kind, provider.holding(epoch))
    fresh = [
        (rows.HEADER_KEY, replace(was, epoch=epoch).encode()),
        (rows.epoch_row_key(epoch), new.encode()),
        (keeper.row_key, keeper.encode()),
    ]
    fresh += [
        (row_key, _rewrapped(KeyRow.decode(value), rows.NO_ID, new, kek, keks, was.archive_id, random))
        for row_key, value in own
        if value is not None
    ]
    if not store.put(fresh, expected=[(rows.HEADER_KEY, was_bytes), *own], gone=[SOMETHING_ELSE]):
        raise LockedError("another process changes the keys", hint="wait for it, then run coffer keys list")
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
    """Return a key row's bytes with the same key wrapped under the new epoch's KEK."""
    kek_id, old = keks.of(row.epoch)
    if row.kek_id != kek_id:
        raise IntegrityError("a row of the keyring was altered", hint="restore the keyring from its backup")
    key = row.unwrap(old, archive_id, key_id)
    moved = replace(row, epoch=new.epoch, kek_id=new.kek_id)
    return moved.wrap(kek, archive_id, key_id, key, random)


def _rewrap(  # noqa: PLR0917
    store: KeyringStore,
    page: Sequence[Row],
    new: EpochRow,
    keks: _Keks,
    archive_id: bytes,
    random: Callable[[int], bytes],
) -> int:
    """Move a page's keys. Returns how many moved. If a row has changed or gone meanwhile, the page is read again."""
    kek = keks.of(new.epoch)[1]
    while True:
        old = [(row_key, value, row) for row_key, value in page if _needs_move(row := KeyRow.decode(value), new)]
        if not old:
            return 0
        fresh = [(row_key, _rewrapped(row, row_key[1:], new, kek, keks, archive_id, random)) for row_key, _, row in old]
        if store.put(fresh, expected=[(row_key, value) for row_key, value, _ in old]):
            return len(fresh)
        row_keys = [row_key for row_key, _ in page]
        again = zip(row_keys, store.get_many(row_keys), strict=True)
        page = [(row_key, value) for row_key, value in again if value is not None]


def _needs_move(row: KeyRow, new: EpochRow) -> bool:
    """Whether a row must move. A shredded key stays behind and ends with its epoch."""
    return row.epoch != new.epoch and row.state is not KeyState.SHRED_SCHEDULED


def _retire(store: KeyringStore, current: int, events: list[WaitingEvent]) -> None:
    old = [row for row in epoch_rows(store) if row.epoch != current and row.state is EpochState.ACTIVE]
    row_keys = [rows.epoch_row_key(row.epoch) for row in old]
    put = [
        (row_key, replace(row, state=EpochState.RETIRED).encode()) for row_key, row in zip(row_keys, old, strict=True)
    ]
    expected = [(row_key, row.encode()) for row_key, row in zip(row_keys, old, strict=True)]
    if not old or not store.put([*put, *(each.row for each in events)], expected=expected):
        raise LockedError("another process rotates the keys", hint="wait for it, then run coffer keys list")
