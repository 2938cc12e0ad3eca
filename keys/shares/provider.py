"""A provider that opens one epoch with the key that shares gave, and every other as the configured ones do.

Rule: whoever holds enough shares opens the keyring as its provider would, so that everything that is checked before a
change is checked for them too. It makes, keeps and destroys no secret.
"""

from __future__ import annotations

from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring import rows
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import DestroyReceipt, Holding, KekProvider, ProviderInfo

__all__ = ["RecoveredProvider"]


class RecoveredProvider(KekProvider):
    """Implements `KekProvider` over `beside`, which is asked for whatever is not the recovered epoch's key."""

    def __init__(self, of: Group, kek: Secret, beside: KekProvider, kind: str = "") -> None:
        self._of = of
        self._kek = kek
        self._beside = beside
        self._kind = kind

    @property
    def kind(self) -> str:
        """As `beside`."""
        return self._kind or self._beside.kind

    def of_kind(self, kind: str) -> KekProvider:
        """See KekProvider. That of `beside` is looked for when something else than the recovered key is needed: it may
        be lost, or not configured any more."""
        return RecoveredProvider(self._of, self._kek, self._beside, kind)

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """See KekProvider: a copy of the recovered key for its own context, which names archive, key and epoch."""
        if context == rows.epoch_context(self._of.archive_id, self._of.kek_id, self._of.epoch):
            return Secret(self._kek.reveal())
        return self._other().unwrap(wrapped, context)

    def describe(self) -> ProviderInfo:
        """See KekProvider."""
        return self._other().describe()

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        """See KekProvider."""
        return self._other().create_epoch(epoch, context)

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        """See KekProvider."""
        return self._other().adopt_epoch(epoch, kek, context)

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        """See KekProvider."""
        return self._other().holding(epoch, name)

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        """See KekProvider."""
        return self._other().destroy_epoch(epoch)

    def health(self) -> None:
        """See KekProvider."""
        self._other().health()

    def _other(self) -> KekProvider:
        return self._beside.of_kind(self.kind)
