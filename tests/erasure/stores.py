"""Places that keep epoch secrets, in memory: they can be lost, found again, and have an old copy put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from coffer.keys.crypto import aead
from coffer.keys.errors import ConfigError, IntegrityError, KeyUnavailableError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import DestroyReceipt, Holding, KekProvider, ProviderInfo
from coffer.keys.providers.routing import ProviderSet


@dataclass(slots=True)
class Store:
    """One key file or token: a secret for each epoch, what it ever had, and whether it is away."""

    kind: str
    name: str
    secrets: dict[int, bytes] = field(default_factory=dict)
    ever: dict[int, bytes] = field(default_factory=dict)
    away: bool = False
    destroyed: set[int] = field(default_factory=set)  # at least once

    def copy(self) -> Store:
        return Store(self.kind, self.name, dict(self.secrets), dict(self.ever), self.away, set(self.destroyed))

    def lose(self) -> None:
        """It is away; what an old copy had brought back goes with it: that is a copy in a drawer again."""
        self.away = True
        self.secrets = {epoch: secret for epoch, secret in self.secrets.items() if epoch not in self.destroyed}

    def put_old_copy_back(self) -> None:
        """As when the oldest backup is restored into what is there now."""
        self.secrets = {**self.ever, **self.secrets}

    def provider(self, random: Callable[[int], bytes]) -> KekProvider:
        """As Coffer meets it."""
        return MemoryProvider(self, random)

    def opens(self, epoch: int, wrapped: bytes, context: bytes) -> Secret | None:
        """Whoever has this store tries it, with no Coffer around it."""
        secret = self.secrets.get(epoch)
        if secret is None:
            return None
        try:
            return Secret(aead.open_sealed(Secret(secret), context, wrapped[4:]))
        except IntegrityError:
            return None


class MemoryProvider:
    """A KekProvider over one store."""

    def __init__(self, store: Store, random: Callable[[int], bytes]) -> None:
        self._store = store
        self._random = random

    @property
    def kind(self) -> str:
        return self._store.kind

    def of_kind(self, kind: str) -> KekProvider:
        if kind != self.kind:
            raise ConfigError(f"this is a {self.kind} provider")
        return self

    def describe(self) -> ProviderInfo:
        return ProviderInfo(self.kind, tuple(sorted(self._reached().secrets)), True, "at once")

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        kek = Secret(self._random(32))
        return kek, self.adopt_epoch(epoch, kek, context)

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        store = self._reached()
        if epoch not in store.secrets:
            store.secrets[epoch] = store.ever[epoch] = self._random(32)
        place = epoch.to_bytes(4, "big")
        return place + aead.seal(Secret(store.secrets[epoch]), context, kek.reveal(), self._random)

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        kek = self._reached().opens(int.from_bytes(wrapped[:4], "big"), wrapped, context)
        if kek is None:
            raise KeyUnavailableError(f"{self._store.name} does not open it")
        return kek

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        secret = self._reached().secrets.get(epoch)
        return None if secret is None else Holding(sha256(secret).digest()[:16], self._store.name)

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        if self._reached().secrets.pop(epoch, None) is not None:
            self._store.destroyed.add(epoch)
        return DestroyReceipt(self.kind, epoch, "nothing")

    def health(self) -> None:
        self._reached()

    def _reached(self) -> Store:
        if self._store.away:
            raise UnavailableError(f"{self._store.name} is away")
        return self._store


class Configured(Protocol):
    """Which store is in place of each kind, and who makes new epochs."""

    places: dict[int, Store]
    in_place: dict[str, int]
    current: str


class InPlace(ProviderSet):
    """What is configured now: it changes while a keyring is open, as when the settings change between two commands."""

    def __init__(self, configured: Configured, random: Callable[[int], bytes]) -> None:
        super().__init__(configured.current, {})
        self._configured = configured
        self._random = random

    @property
    def kind(self) -> str:
        return self._configured.current

    def of_kind(self, kind: str) -> KekProvider:
        return self._configured.places[self._configured.in_place[kind]].provider(self._random)

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        return self.of_kind(self.kind).create_epoch(epoch, context)

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        return self.of_kind(self.kind).holding(epoch, name)
