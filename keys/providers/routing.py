"""Several providers joined into one, and a provider that retries another.

Rule: an epoch row names the kind of provider that wrapped its KEK, and only that one is called. The current one makes
new epochs, so one rotation with both configured moves an archive from one provider to another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from coffer.keys.errors import ConfigError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.base import DestroyReceipt, Holding, KekProvider, ProviderInfo

__all__ = ["ProviderSet", "RetryPolicy", "RetryingProvider"]

_T = TypeVar("_T")
_PAUSE: Final = 2.0


class ProviderSet:
    """A KekProvider over several. `makers` build each kind on first use; the `current` kind makes new epochs.

    Thread-safe. A maker raises ConfigError where its provider is not configured or its library is not installed.
    """

    def __init__(self, current: str, makers: Mapping[str, Callable[[], KekProvider]]) -> None:
        self._current = current
        self._makers = makers
        self._made: dict[str, KekProvider] = {}
        self._lock = threading.Lock()

    @property
    def kind(self) -> str:
        """The current provider's kind."""
        return self._current

    def of_kind(self, kind: str) -> KekProvider:
        """See KekProvider."""
        with self._lock:
            if kind not in self._made:
                if kind not in self._makers:
                    raise ConfigError(
                        f"an epoch of this archive is kept by a {kind} provider, which this release does not support",
                        hint=f"use the release that wrote it; supported here: {', '.join(self._makers)}",
                    )
                self._made[kind] = self._makers[kind]()
            return self._made[kind]

    def describe(self) -> ProviderInfo:
        """The current provider's description."""
        return self.of_kind(self._current).describe()

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        """See KekProvider: by the current provider."""
        return self.of_kind(self._current).create_epoch(epoch, context)

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        """See KekProvider: by the current provider."""
        return self.of_kind(self._current).adopt_epoch(epoch, kek, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """See KekProvider: by the current provider. For a row's KEK use `of_kind(row.provider)`."""
        return self.of_kind(self._current).unwrap(wrapped, context)

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        """See KekProvider: the current provider's."""
        return self.of_kind(self._current).holding(epoch, name)

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        """See KekProvider: by the current provider. For a row's secret use `of_kind(row.provider)`."""
        return self.of_kind(self._current).destroy_epoch(epoch)

    def health(self) -> None:
        """Check the current provider and every other one used so far."""
        self.of_kind(self._current)
        with self._lock:
            made = list(self._made.values())
        for provider in made:
            provider.health()


@dataclass(slots=True)
class RetryPolicy:
    """How long to wait for a provider: until `end`, a reading of `clock` in seconds. Set `end` back to stop waiting.

    `on_retry` is called before each pause with the cause and the seconds left.
    """

    end: float
    on_retry: Callable[[UnavailableError, float], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class RetryingProvider:
    """A KekProvider that retries another while that cannot be reached, until its policy's end.

    Errors that waiting cannot cure (a wrong PIN, a missing secret) are raised at once; after the end every error is.
    """

    def __init__(self, provider: KekProvider, policy: RetryPolicy) -> None:
        self._provider = provider
        self._policy = policy

    @property
    def kind(self) -> str:
        """The kind of the provider that is retried."""
        return self._provider.kind

    def of_kind(self, kind: str) -> KekProvider:
        """See KekProvider: with the same policy."""
        return RetryingProvider(self._provider.of_kind(kind), self._policy)

    def describe(self) -> ProviderInfo:
        """See KekProvider."""
        return self._retry(self._provider.describe)

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        """See KekProvider."""
        return self._retry(lambda: self._provider.create_epoch(epoch, context))

    def adopt_epoch(self, epoch: int, kek: Secret, context: bytes) -> bytes:
        """See KekProvider."""
        return self._retry(lambda: self._provider.adopt_epoch(epoch, kek, context))

    def unwrap(self, wrapped: bytes, context: bytes) -> Secret:
        """See KekProvider."""
        return self._retry(lambda: self._provider.unwrap(wrapped, context))

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        """See KekProvider."""
        return self._retry(lambda: self._provider.holding(epoch, name))

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        """See KekProvider."""
        return self._retry(lambda: self._provider.destroy_epoch(epoch))

    def health(self) -> None:
        """See KekProvider. Not retried: its caller polls."""
        self._provider.health()

    def _retry(self, attempt: Callable[[], _T]) -> _T:
        policy = self._policy
        while True:
            try:
                return attempt()
            except UnavailableError as error:
                left = policy.end - policy.clock()
                if left <= 0:
                    raise
                policy.on_retry(error, left)
                policy.sleep(min(_PAUSE, left))
