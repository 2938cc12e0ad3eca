"""Move every key of a keyring under a new epoch's KEK; no stored object is touched.

Rule: resumable at every step. First, in one transaction, the new epoch's row, the archive root key under it, and the
header that makes it current: from then on new keys go under it, in every process. Then the study keys, page by page.
Last the old epochs are retired. A rotation that was stopped is recognised by an older epoch that is still active. A row
that another process changed meanwhile is read again (`RowStore.put` with `expected`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from keys import aead, rows
from keys.errors import ConfigError, FormatError, IntegrityError, KeyUnavailableError, LockedError, NotFoundError
from keys.provider import DestroyReceipt, KekProvider
from keys.rows import GONE, EpochRow, EpochState, Header, KeyRow, KeyState
from keys.secret import Secret
from keys.store import RowStore

__all__ = ["Destruction", "Rotated", "destroy", "rotate"]

_PAGE: Final = 2000
_DESTRUCTION: Final = struct.Struct(">QQ")  # receipt_ms effective_ms

Keks = Mapping[int, tuple[bytes, Secret]]  # by epoch: the KEK's id and the KEK


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did: the epoch that is current now, its provider's kind, how many study keys moved to it, and
    whether it went on with one that had been stopped."""

    epoch: int
    provider: str
    rewrapped: int
    resumed: bool


def rotate(  # noqa: PLR0917  # what a keyring is made of
    store: RowStore,
    provider: KekProvider,
    random: Callable[[int], bytes],
    now_ms: Callable[[], int],
    progress: Callable[[int, int], None],
    event: Callable[[Rotated], tuple[bytes, bytes]] | None = None,
) -> Rotated:
    """Rotate, or finish a rotation that was stopped; durable on return. `progress` gets study keys done and in all.

    The row that `event` makes is written with the last step. One call of the provider makes the new epoch, one opens
    each old one. Raises LockedError where another process rotates at the same time, and what the provider raises; then
    running it again goes on.
    """
    was = _header(store)
    epochs = _epochs(store)
    keks = {row.epoch: _open(provider, was.archive_id, row) for row in epochs if row.state not in GONE}
    resumed = any(row.state is EpochState.ACTIVE and row.epoch < was.epoch for row in epochs)
    if not resumed:
        new, kek = _begin(store, provider, keks, random, now_ms)
        keks[new.epoch] = new.kek_id, kek
    current = next(row for row in _epochs(store) if row.epoch == _header(store).epoch)
    total, done, moved, after = store.walk(rows.STUDY_PREFIX, lambda _key, _value: None), 0, 0, b""
    while page := store.page(rows.STUDY_PREFIX, after, _PAGE):
        moved += _rewrap(store, page, current, keks, was.archive_id, random)
        done, after = done + len(page), page[-1][0]
        progress(done, max(total, done))
    rotated = Rotated(current.epoch, current.provider, moved, resumed)
    _retire(store, current.epoch, [] if event is None else [event(rotated)])
    return rotated


def _header(store: RowStore) -> Header:
    value = store.get(rows.HEADER_KEY)
    if value is None:
        raise FormatError("the keyring has no header", hint="restore it from its backup")
    return Header.decode(value)


def _epochs(store: RowStore) -> list[EpochRow]:
    return [EpochRow.decode(value) for _, value in store.scan(rows.EPOCH_PREFIX)]


def _open(provider: KekProvider, archive_id: bytes, row: EpochRow) -> tuple[bytes, Secret]:
    context = rows.epoch_context(archive_id, row.kek_id, row.epoch)
    return row.kek_id, provider.of_kind(row.provider).unwrap(row.wrapped, context)


def _begin(
    store: RowStore,
    provider: KekProvider,
    keks: Keks,
    random: Callable[[int], bytes],
    now_ms: Callable[[], int],
) -> tuple[EpochRow, Secret]:
    """Make the new epoch current. A stop before the transaction leaves a secret that nothing is wrapped under."""
    was_bytes, root_bytes = store.get(rows.HEADER_KEY), store.get(rows.ARCHIVE_ROOT_KEY)
    if was_bytes is None or root_bytes is None:
        raise FormatError("the keyring lacks its header or its root key", hint="restore it from its backup")
    was = Header.decode(was_bytes)
    epoch, kek_id = was.epoch + 1, random(16)
    kek, wrapped = provider.create_epoch(epoch, rows.epoch_context(was.archive_id, kek_id, epoch))
    new = EpochRow(EpochState.ACTIVE, epoch, kek_id, now_ms(), provider.kind, wrapped)
    changes = store.get(rows.CHANGES_KEY)
    fresh = [
        (rows.CHANGES_KEY, _after(changes)),
        (rows.HEADER_KEY, replace(was, epoch=epoch).encode()),
        (rows.EPOCH_PREFIX + epoch.to_bytes(4, "big"), new.encode()),
        (rows.ARCHIVE_ROOT_KEY, _moved(root_bytes, rows.ROOT_ID, new, kek, keks, was.archive_id, random)),
    ]
    expected = [(rows.HEADER_KEY, was_bytes), (rows.ARCHIVE_ROOT_KEY, root_bytes), (rows.CHANGES_KEY, changes)]
    if not store.put(fresh, expected=expected):
        raise LockedError("another process changes the keys", hint="wait for it, then look at coffer keys list")
    return new, kek


def _moved(  # noqa: PLR0917  # the parts of a row, its old and its new place
    value: bytes,
    key_id: bytes,
    new: EpochRow,
    kek: Secret,
    keks: Keks,
    archive_id: bytes,
    random: Callable[[int], bytes],
) -> bytes:
    """A key row's bytes with the same key under the new epoch's KEK."""
    row = KeyRow.decode(value)
    kek_id, old = keks.get(row.epoch, (b"", None))
    if old is None:
        raise KeyUnavailableError(f"a key is wrapped under epoch {row.epoch}, which cannot be opened")
    if row.kek_id != kek_id:
        raise IntegrityError("a row of the keyring was altered", hint="restore the keyring from its backup")
    key = row.unwrap(old, archive_id, key_id)
    return replace(row, epoch=new.epoch, kek_id=new.kek_id, sealed=b"").wrap(
        kek, archive_id, key_id, key, random(aead.SALT)
    )


def _rewrap(  # noqa: PLR0917
    store: RowStore,
    page: list[tuple[bytes, bytes]],
    new: EpochRow,
    keks: Keks,
    archive_id: bytes,
    random: Callable[[int], bytes],
) -> int:
    """Move a page's keys; returns how many were not there yet. A row that is gone or new since is looked at again."""
    kek = keks[new.epoch][1]
    while True:
        old = [(place, value) for place, value in page if _moves(KeyRow.decode(value), new)]
        if not old:
            return 0
        fresh = [(place, _moved(value, place[1:], new, kek, keks, archive_id, random)) for place, value in old]
        if store.put(fresh, expected=old):
            return len(fresh)
        again = ((place, store.get(place)) for place, _ in page)
        page = [(place, value) for place, value in again if value is not None]


def _moves(row: KeyRow, new: EpochRow) -> bool:
    """A shredded key is left behind: it ends with its epoch."""
    return row.epoch != new.epoch and row.state is not KeyState.SHRED_SCHEDULED


@dataclass(frozen=True, slots=True)
class Destruction:
    """When an epoch's provider gave its receipt, and from when on nobody can bring the secret back; ms since 1970."""

    receipt_ms: int
    effective_ms: int

    def encode(self) -> bytes:
        """Return the 16 bytes."""
        return _DESTRUCTION.pack(self.receipt_ms, self.effective_ms)

    @classmethod
    def decode(cls, data: bytes) -> Destruction:
        """Return the value. Raises FormatError for any other length."""
        if len(data) != _DESTRUCTION.size:
            raise FormatError("a destruction row of the keyring has the wrong length")
        return cls(*_DESTRUCTION.unpack(data))


def destroy(
    store: RowStore,
    provider: KekProvider,
    epoch: int,
    now_ms: Callable[[], int],
    event: Callable[[DestroyReceipt, Destruction], tuple[bytes, bytes]] | None = None,
) -> DestroyReceipt:
    """Destroy an old epoch's secret for ever, durable on return; repeated, it gives the receipt again.

    The keyring is told first: from then on no process asks for that secret, and a stop before the provider has
    destroyed it leaves an archive that opens. The row that `event` makes of receipt and times is written with the
    receipt, once. Raises NotFoundError for an epoch that never was, ConfigError for the current one or one that still
    holds keys, and what the provider raises.
    """
    place = rows.EPOCH_PREFIX + epoch.to_bytes(4, "big")
    value = store.get(place)
    if value is None:
        raise NotFoundError(f"this archive has no key epoch {epoch}")
    row = EpochRow.decode(value)
    if epoch >= _header(store).epoch or row.state is EpochState.ACTIVE:
        raise ConfigError(f"epoch {epoch} is in use", hint="rotate first: coffer keys rotate")
    held: list[int] = []
    store.walk(rows.STUDY_PREFIX, lambda _, key: held.append(1) if KeyRow.decode(key).epoch == epoch else None)
    if held:
        raise ConfigError(
            f"{len(held)} study keys are still under epoch {epoch}",
            hint="rotate; keys that were shredded a moment ago leave it by themselves while a server runs",
        )
    if row.state is EpochState.RETIRED:
        changes = store.get(rows.CHANGES_KEY)
        put = [(place, replace(row, state=EpochState.DESTROYING).encode()), (rows.CHANGES_KEY, _after(changes))]
        if not store.put(put, expected=[(place, value), (rows.CHANGES_KEY, changes)]):
            raise LockedError("another process changes the keys", hint="say it again")
    receipt = provider.of_kind(row.provider).destroy_epoch(epoch)
    if row.state is not EpochState.DESTROYED:
        now = now_ms()
        done = Destruction(now, receipt.effective_ms or now)
        put = [
            (place, replace(row, state=EpochState.DESTROYED, wrapped=b"").encode()),
            (rows.DESTRUCTION_PREFIX + place[1:], done.encode()),
            *([] if event is None else [event(receipt, done)]),
        ]
        store.put(put, expected=[(place, replace(row, state=EpochState.DESTROYING).encode())])
    return receipt


def _after(changes: bytes | None) -> bytes:
    """The change counter, one up: every process then lets go of what it holds."""
    return (int.from_bytes(changes or b"", "big") + 1).to_bytes(8, "big")


def _retire(store: RowStore, current: int, events: list[tuple[bytes, bytes]]) -> None:
    old = [row for row in _epochs(store) if row.epoch != current and row.state is EpochState.ACTIVE]
    places = [rows.EPOCH_PREFIX + row.epoch.to_bytes(4, "big") for row in old]
    put = [(place, replace(row, state=EpochState.RETIRED).encode()) for place, row in zip(places, old, strict=True)]
    expected = [(place, row.encode()) for place, row in zip(places, old, strict=True)]
    if not old or not store.put([*put, *events], expected=expected):
        raise LockedError("another process rotates the keys", hint="wait for it, then look at coffer keys list")
