"""What the keyring asks of whatever guards the epoch KEKs: a key file, an HSM, a key management service.

Rule: the provider keeps each epoch's KEK under a secret of that epoch's own, so that destroying an epoch leaves no
older secret that opens it again (facts 2.8). One provider call opens an epoch; none is made per study.
This module holds the contract and its values; `keyfile`, `hsm` and `kms` implement it, `providers` joins several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from coffer.keys.errors import ConfigError
from coffer.keys.memory.secret import Secret

__all__ = ["DestroyReceipt", "Holding", "KekProvider", "ProviderInfo", "only"]


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """What an administrator wants to know of a provider: its kind (ASCII, at most 16 bytes), the epochs it holds
    secrets for, whether only FIPS-approved algorithms guard them, and what destruction means there."""

    kind: str
    epochs: tuple[int, ...]
    fips_algorithms: bool
    destruction: str


@dataclass(frozen=True, slots=True)
class Holding:
    """A secret that a provider holds for an epoch: 16 bytes that only this secret has, also in another copy of it, and
    that tell nothing of it; and the words by which an administrator finds it."""

    id: bytes
    name: str


@dataclass(frozen=True, slots=True)
class DestroyReceipt:
    """Evidence that an epoch's secret is gone: the provider's kind, the epoch, and what still has to be destroyed
    elsewhere (backups the provider cannot reach) in words. `effective_ms` (since 1970) is set where the provider
    destroys later: until then somebody with the right to it can bring the secret back."""

    kind: str
    epoch: int
    caveat: str
    effective_ms: int | None = None


class KekProvider(Protocol):
    """Creates, opens and destroys the epoch KEKs of one archive.

    `context` binds the wrapped KEK to archive, KEK id and epoch; the same bytes must be given to `unwrap`.
    Every method raises KeyUnavailableError when the secret is missing or does not fit, UnavailableError when the
    provider cannot be reached now, ConfigError when an administrator must change something.
    """

    @property
    def kind(self) -> str:
        """What stands in the epoch rows of KEKs that `create_epoch` makes; known without asking anybody."""
        ...

    def of_kind(self, kind: str) -> KekProvider:
        """Return the provider that keeps KEKs of a row's kind: this one, or one it knows. Raises ConfigError."""
        ...

    def describe(self) -> ProviderInfo:
        """Return what this provider is and which epochs it can open."""
        ...

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        """Return a fresh 32-byte KEK and its wrapped form (at most 65 535 bytes).

        The provider's own secret for the epoch is durable on return. Repeating a call for an epoch that was never
        used (a crash came between) is allowed and makes another KEK.
        """
        ...

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        """Return the wrapped form of a KEK that exists already (it was recovered, or moves here); as `create_epoch`."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """Return the 32-byte KEK. Raises KeyUnavailableError for a wrong secret, wrong context or altered bytes."""
        ...

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        """Return the secret that it has for an epoch now, None where it was reached and has none.

        `name` is where one was kept, as an earlier answer said, for a provider that finds it by that only.
        """
        ...

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        """Destroy the epoch's secret for ever; durable on return. An epoch already gone gives a receipt again."""
        ...

    def health(self) -> None:
        """Return when the provider can be reached and its secrets can be used now, raise otherwise. Changes nothing.

        That it still opens one particular KEK is what `Keyring.prove` finds out.
        """
        ...


def only(provider: KekProvider, kind: str) -> KekProvider:
    """Return `provider` when it is of that kind. Raises ConfigError, naming both."""
    if kind != provider.kind:
        raise ConfigError(
            f"an epoch of this archive is kept by a {kind} provider, and only {provider.kind} is configured",
            hint=f"configure the {kind} provider too: docs/keys.md, Providers",
        )
    return provider
