"""The epochs of a keyring whose KEKs are in memory, and how the others get there.

Rule: a row names the one epoch whose KEK opens it, and no other is tried. A retired epoch is opened when a key names
it: one whose provider is lost must not keep the others closed. An epoch that is gone opens nothing, whoever ended it.
"""

from __future__ import annotations

from collections.abc import Iterable

from coffer.keys.errors import IntegrityError, KeyUnavailableError, NotFoundError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import keepers_in
from coffer.keys.keyring.overview import epoch_rows, header_in
from coffer.keys.keyring.returned import Returned, returned
from coffer.keys.keyring.rows import EpochRow, KeyringHeader, KeyRow, Purpose
from coffer.keys.keyring.store import RowStore
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import KekProvider

__all__ = ["OpenEpochs"]


class OpenEpochs:
    """The header as it was last read, and the KEK's id and the KEK of each epoch that was opened, by its number.

    A rotation adds to `keks`.
    """

    __slots__ = ("_provider", "_store", "header", "keks")

    def __init__(self, store: RowStore, provider: KekProvider) -> None:
        """Open the current epoch. Raises as `load`."""
        self._store = store
        self._provider = provider
        self.header: KeyringHeader
        self.keks: dict[int, tuple[bytes, Secret]] = {}
        self.load()

    def load(self, wanted: int = 0) -> None:
        """Read the header and open its epoch, and the one that is wanted, where they are not open yet.

        Raises FormatError, IntegrityError for a damaged keyring, and what the provider raises.
        """
        self.header = header_in(self._store)
        for key, value in self._store.scan(rows.EPOCH_PREFIX):
            row = EpochRow.decode(value)
            if key != rows.epoch_row_key(row.epoch):
                raise IntegrityError("an epoch row of the keyring stands under another epoch's number")
            if row.epoch not in (self.header.epoch, wanted):
                continue
            if row.state in rows.GONE or self.keks.get(row.epoch, (b"",))[0] == row.kek_id:
                continue
            keeper = self._provider.of_kind(row.provider)
            context = rows.epoch_context(self.header.archive_id, row.kek_id, row.epoch)
            self.keks[row.epoch] = (row.kek_id, keeper.unwrap(row.wrapped, context))
        if self.header.epoch not in self.keks:
            raise IntegrityError("the keyring's current epoch has no key", hint="restore the keyring from its backup")

    def adopt(self, header: KeyringHeader, epochs: Iterable[EpochRow]) -> None:
        """Take over what header and epoch rows say now, and let go of the KEKs of epochs that are gone."""
        self.header = header
        for row in epochs:
            if row.state in rows.GONE:
                self.forget(row.epoch)

    def forget(self, epoch: int) -> None:
        """Let go of an epoch's KEK, which is wiped when nobody uses it any more."""
        self.keks.pop(epoch, None)

    def wipe(self) -> None:
        """Overwrite every KEK, whoever still refers to it."""
        for _, kek in self.keks.values():
            kek.wipe()

    def kek(self, epoch: int) -> tuple[bytes, Secret]:
        """Return an epoch's KEK id and KEK, also when another process has just made it."""
        known = self.keks.get(epoch)
        if known is None:
            self.load(epoch)  # a retired one, or another process has rotated
            known = self.keks.get(epoch)
        if known is None:
            raise KeyUnavailableError(f"epoch {epoch} of the keyring cannot be opened (any more)")
        return known

    def unwrap(self, row: KeyRow, purpose: Purpose, key_id: bytes) -> Secret:
        """Open a row under the one KEK that it names."""
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
        """Return an epoch's row as it stands on disk. Raises NotFoundError for an epoch that never was."""
        value = self._store.get(rows.epoch_row_key(epoch))
        if value is None:
            raise NotFoundError(f"this archive has no key epoch {epoch}")
        return EpochRow.decode(value)

    def lacks_current_kek(self) -> bool:
        """Whether the key of the newest epoch that was seen is not in memory: nothing can be stored. Asks nobody."""
        return self.header.epoch not in self.keks

    def check_provider(self, epoch: int) -> None:
        """Return when an epoch's provider opens the same KEK as the one in memory. Asks the provider.

        Raises KeyUnavailableError or IntegrityError when the next start would fail for good, else what the provider
        raises.
        """
        row = self.row(epoch)
        kek_id, kek = self.kek(epoch)
        if row.state in rows.GONE:
            raise KeyUnavailableError(f"key epoch {epoch} was destroyed while it was in use", hint="restart")
        context = rows.epoch_context(self.header.archive_id, row.kek_id, epoch)
        found = self._provider.of_kind(row.provider).unwrap(row.wrapped, context)
        if row.kek_id != kek_id or not found.matches(kek):
            raise KeyUnavailableError(f"the provider opens another key than the one in use for epoch {epoch}")

    def returned(self) -> Returned:
        """Return the destroyed epochs whose secrets the provider has again, as `keys.providers.routing.returned` finds
        them."""
        return returned(epoch_rows(self._store), keepers_in(self._store), self._provider)
