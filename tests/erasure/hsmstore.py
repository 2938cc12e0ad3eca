"""A real token of SoftHSM as one of the places, which can be lost, found again, and have an old backup put back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from coffer.keys.errors import KeyUnavailableError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import DestroyReceipt, Holding, KekProvider, ProviderInfo
from coffer.keys.providers.pkcs11 import HsmProvider
from tests.erasure.stores import Store
from tests.keys.softhsm import SoftHsm


class TokenStore(Store):
    """The token's folder; a copy of it is a backup of the HSM. `world` is not copied with it."""

    def __init__(self, hsm: SoftHsm, archive_id: bytes, backups: Path) -> None:
        super().__init__("pkcs11", "the token")
        self.hsm = hsm
        self.inner = hsm.provider(archive_id=archive_id)
        self._backups = backups

    def provider(self, random: Callable[[int], bytes]) -> KekProvider:
        return _TokenProvider(self)

    def opens(self, epoch: int, wrapped: bytes, context: bytes) -> Secret | None:
        if len(wrapped) != 65:  # wrapped by another kind
            return None
        try:
            return self.inner.unwrap(wrapped, context)
        except KeyUnavailableError:
            return None

    def lose(self) -> None:
        """What a backup had brought back is taken out first: it is in a drawer again."""
        for epoch in self.destroyed:
            self.inner.destroy_epoch(epoch)
        self.away = True

    def back_up(self) -> None:
        """Keep the keys that there are now."""
        shutil.copytree(self.hsm.folder / "tokens", self._backups, dirs_exist_ok=True)

    def put_old_copy_back(self) -> None:
        if self._backups.is_dir():
            shutil.copytree(self._backups, self.hsm.folder / "tokens", dirs_exist_ok=True)
            self.hsm.restart()


class _TokenProvider:
    """The token's own provider, which answers nothing while the token is away."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store

    @property
    def kind(self) -> str:
        return "pkcs11"

    def of_kind(self, kind: str) -> KekProvider:
        assert kind == self.kind
        return self

    def describe(self) -> ProviderInfo:
        return self._reached().describe()

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        made = self._reached().create_epoch(epoch, context)
        self._store.back_up()
        return made

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        return self._reached().adopt_epoch(epoch, kek, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        return self._reached().unwrap(wrapped, context)

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        return self._reached().holding(epoch, name)

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        self._store.destroyed.add(epoch)
        return self._reached().destroy_epoch(epoch)

    def health(self) -> None:
        self._reached().health()

    def _reached(self) -> HsmProvider:
        if self._store.away:
            raise UnavailableError("the token is away")
        return self._store.inner
