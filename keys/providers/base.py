"""The contract of a key provider, which guards the epoch KEKs: a key file, an HSM, a key management service.

Rule: the provider wraps each epoch's KEK under a secret of that epoch alone, so that a destroyed epoch leaves no older
secret that could open it again. One provider call opens an epoch; none is made per study.
This module holds the contract and its values; `key_file`, `pkcs11` and `aws_kms` implement it, `routing` joins several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from coffer.keys.errors import ConfigError
from coffer.keys.memory.secret import Secret

__all__ = ["DestroyReceipt", "Holding", "KekProvider", "ProviderInfo", "only"]


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """A provider described for an administrator: its kind (ASCII, at most 16 bytes), the epochs it holds secrets for,
    whether only FIPS-approved algorithms guard them, and what destruction means there."""

    kind: str
    epochs: tuple[int, ...]
    fips_algorithms: bool
    destruction: str


@dataclass(frozen=True, slots=True)
class Holding:
    """A secret that a provider holds for an epoch: an id of 16 bytes, unique to this secret, the same in every copy of
    it and revealing nothing of it; and a name by which an administrator finds it."""

    id: bytes
    name: str


@dataclass(frozen=True, slots=True)
class DestroyReceipt:
    """Evidence that an epoch's secret was destroyed: the provider's kind, the epoch, and in words what still has to be
    destroyed elsewhere (backups that the provider cannot reach). `effective_ms` (since 1970) is set where the provider
    destroys later: until then an authorized person can bring the secret back."""

    kind: str
    epoch: int
    caveat: str
    effective_ms: int | None = None


class KekProvider(Protocol):
    """Creates, opens and destroys the epoch KEKs of one archive.

    `context` binds the wrapped KEK to archive, KEK id and epoch; the same bytes must be given to `unwrap`.
    Every method raises KeyUnavailableError when the secret is missing or the wrong one, UnavailableError when the
    provider cannot be reached now, ConfigError when an administrator must change something.
    """

    @property
    def kind(self) -> str:
        """The provider kind written to the epoch rows of KEKs that `create_epoch` makes. Makes no call."""
        ...

    def of_kind(self, kind: str) -> KekProvider:
        """Return the provider for the KEKs of a row's kind: this one, or one that it joins. Raises ConfigError."""
        ...

    def describe(self) -> ProviderInfo:
        """Describe this provider and the epochs it can open."""
        ...

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        """Return a fresh 32-byte KEK and its wrapped form (at most 65 535 bytes).

        The provider's own secret for the epoch is durable on return. After a crash the call may be repeated for an
        epoch that was never used; it makes another KEK.
        """
        ...

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        """Return the wrapped form of an existing KEK (recovered from shares, or moved here). Otherwise as
        `create_epoch`."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """Return the 32-byte KEK. Raises KeyUnavailableError for a wrong secret, wrong context or altered bytes."""
        ...

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        """Return the secret that it holds for an epoch now, None where the provider was reached and has none.

        `name` is the name in an earlier answer, for a provider that can find a secret by its name only.
        """
        ...

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        """Destroy the epoch's secret for ever; durable on return. Repeating it gives a receipt again."""
        ...

    def health(self) -> None:
        """Return if the provider can be reached and its secrets can be used now, otherwise raise. Changes nothing.

        `Keyring.check_provider` checks that it still opens a particular KEK.
        """
        ...


def only(provider: KekProvider, kind: str) -> KekProvider:
    """Return `provider` if it is of that kind. Raises ConfigError, naming both kinds."""
    if kind != provider.kind:
        raise ConfigError(
            f"an epoch of this archive is kept by a {kind} provider, and only {provider.kind} is configured",
            hint=f"configure the {kind} provider too: docs/keys.md, Providers",
        )
    return provider
