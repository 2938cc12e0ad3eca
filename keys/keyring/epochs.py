"""The epochs whose KEKs are in memory, and how further ones are opened.

Rule: a row names the one epoch whose KEK opens it, and no other is tried. A retired epoch is opened only when a key
names it: a lost provider must not block the other epochs. A destroyed epoch opens nothing, whichever process ended it.
"""

from __future__ import annotations

from collections.abc import Iterable

from coffer.keys.errors import IntegrityError, KeyUnavailableError, NotFoundError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import keepers_in
from coffer.keys.keyring.overview import epoch_rows, header_in
from coffer.keys.keyring.returned import Returned, returned
from coffer.keys.keyring.rows import EpochRow, KeyringHeader, KeyRow, Purpose
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import KekProvider
from coffer.keys.store.keyring_store import KeyringStore, scan
from coffer.keys.values.epoch import GONE

__all__ = ["OpenEpochs"]


class OpenEpochs:
    """The header as last read, and by number the KEK id and KEK of each opened epoch. A rotation adds to `keks`."""

    __slots__ = ("_provider", "_store", "header", "keks")

    def __init__(self, store: KeyringStore, provider: KekProvider) -> None:
        """Open the current epoch. Raises as `load`."""
        self._store = store
        self._provider = provider
        self.header: KeyringHeader
        self.keks: dict[int, tuple[bytes, Secret]] = {}
        self.load()

    def load(self, wanted: int = 0) -> None:
        """Read the header; open its epoch and the `wanted` one unless they are open already.

        Raises FormatError, IntegrityError for a damaged keyring, and what the provider raises.
        """
        self.header = header_in(self._store)
        for key, value in scan(self._store, rows.EPOCH_PREFIX):
            row = EpochRow.decode(value)
            if key != rows.epoch_row_key(row.epoch):
                raise IntegrityError("an epoch row of the keyring is stored under another epoch's number")
            if row.epoch not in (self.header.epoch, wanted):
                continue
            if row.state in GONE or self.keks.get(row.epoch, (b"",))[0] == row.kek_id:
                continue
            keeper = self._provider.of_kind(row.provider)
            context = rows.epoch_context(self.header.archive_id, row.kek_id, row.epoch)
            self.keks[row.epoch] = (row.kek_id, keeper.unwrap(row.wrapped, context))
        if self.header.epoch not in self.keks:
            raise IntegrityError("the keyring's current epoch has no key", hint="restore the keyring from its backup")

    def adopt(self, header: KeyringHeader, epochs: Iterable[EpochRow]) -> None:
        """Adopt a header, and drop the KEKs of the epochs that are gone according to these rows."""
        self.header = header
        for row in epochs:
            if row.state in GONE:
                self.forget(row.epoch)

    def forget(self, epoch: int) -> None:
        """Drop an epoch's KEK, which is wiped with its last reference."""
        self.keks.pop(epoch, None)

    def wipe(self) -> None:
        """Overwrite every KEK, even where others still hold a reference."""
        for _, kek in self.keks.values():
            kek.wipe()

    def kek(self, epoch: int) -> tuple[bytes, Secret]:
        """Return an epoch's KEK id and KEK, also when another process has just made it.

        Raises KeyUnavailableError for an epoch that is gone, otherwise as `load`.
        """
        known = self.keks.get(epoch)
        if known is None:
            self.load(epoch)  # a retired epoch, or another process has rotated
            known = self.keks.get(epoch)
        if known is None:
            raise KeyUnavailableError(f"epoch {epoch} of the keyring cannot be opened")
        return known

    def unwrap(self, row: KeyRow, purpose: Purpose, key_id: bytes) -> Secret:
        """Open a row with the one KEK that it names. Raises IntegrityError, and as `kek`."""
        kek_id, kek = self.kek(row.epoch)
        name = key_id.hex()[:8]
        if row.purpose is not purpose or row.kek_id != kek_id:
            raise IntegrityError(f"the keyring row of key {name} was altered")
        try:
            return row.unwrap(kek, self.header.archive_id, key_id)
        except IntegrityError as error:
            raise IntegrityError(
                f"the keyring row of key {name} was altered or belongs elsewhere", hint="restore the keyring"
            ) from error

    def row(self, epoch: int) -> EpochRow:
        """Return an epoch's row from disk. Raises NotFoundError for an epoch that never existed."""
        value = self._store.get(rows.epoch_row_key(epoch))
        if value is None:
            raise NotFoundError(f"this archive has no key epoch {epoch}")
        return EpochRow.decode(value)

    def lacks_current_kek(self) -> bool:
        """Whether the newest known epoch's KEK is not in memory, so nothing can be stored. Calls no provider."""
        return self.header.epoch not in self.keks

    def check_provider(self, epoch: int) -> None:
        """Check that an epoch's provider still opens the KEK that is in memory. Calls the provider.

        Raises KeyUnavailableError or IntegrityError where the next start would fail permanently, otherwise what the
        provider raises.
        """
        row = self.row(epoch)
        kek_id, kek = self.kek(epoch)
        if row.state in GONE:
            raise KeyUnavailableError(f"key epoch {epoch} was destroyed while it was in use", hint="restart Coffer")
        context = rows.epoch_context(self.header.archive_id, row.kek_id, epoch)
        found = self._provider.of_kind(row.provider).unwrap(row.wrapped, context)
        if row.kek_id != kek_id or not found.matches(kek):
            raise KeyUnavailableError(f"the provider opens another key than the one in use for epoch {epoch}")

    def returned(self) -> Returned:
        """Return the destroyed epochs whose secrets a provider holds again: see `keys.keyring.returned`."""
        return returned(epoch_rows(self._store), keepers_in(self._store), self._provider)
