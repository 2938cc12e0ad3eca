"""Several providers that look like one, and a provider that waits for another.

Rule: an epoch row names the kind of provider that keeps its KEK, and only that one is asked. The current one makes new
epochs, so an archive moves from one provider to another by one rotation, with both open.
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
    """A KekProvider of several. `makers` make one by its kind when it is first needed; `current` makes new epochs.

    Thread-safe. A maker raises ConfigError where its provider is not configured or its library not installed.
    """

    def __init__(self, current: str, makers: Mapping[str, Callable[[], KekProvider]]) -> None:
        self._current = current
        self._makers = makers
        self._made: dict[str, KekProvider] = {}
        self._lock = threading.Lock()

    @property
    def kind(self) -> str:
        """The current provider's."""
        return self._current

    def of_kind(self, kind: str) -> KekProvider:
        """See KekProvider."""
        with self._lock:
            if kind not in self._made:
                if kind not in self._makers:
                    raise ConfigError(
                        f"an epoch of this archive is kept by a {kind} provider, which this release does not know",
                        hint=f"use the release that wrote it; known here: {', '.join(self._makers)}",
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
        """See KekProvider: by the current provider. For a row's KEK ask `of_kind(row.provider)`."""
        return self.of_kind(self._current).unwrap(wrapped, context)

    def holding(self, epoch: int, name: str = "") -> Holding | None:
        """See KekProvider: the current provider's."""
        return self.of_kind(self._current).holding(epoch, name)

    def destroy_epoch(self, epoch: int) -> DestroyReceipt:
        """See KekProvider: by the current provider. For a row's secret ask `of_kind(row.provider)`."""
        return self.of_kind(self._current).destroy_epoch(epoch)

    def health(self) -> None:
        """Ask every provider that was needed so far, and the current one."""
        self.of_kind(self._current)
        with self._lock:
            made = list(self._made.values())
        for provider in made:
            provider.health()


@dataclass(slots=True)
class RetryPolicy:
    """How long to wait for a provider: until `end`, a reading of `clock` in seconds. Set `end` back to stop waiting.

    `tell` gets the cause and the seconds that are left, before each pause.
    """

    end: float
    on_retry: Callable[[UnavailableError, float], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class RetryingProvider:
    """A KekProvider that, while another cannot be reached, tries again as long as its patience lasts.

    What waiting cannot mend (a wrong PIN, a missing secret) is raised at once, and after the end everything is.
    """

    def __init__(self, provider: KekProvider, patience: RetryPolicy) -> None:
        self._provider = provider
        self._patience = patience

    @property
    def kind(self) -> str:
        """The other's."""
        return self._provider.kind

    def of_kind(self, kind: str) -> KekProvider:
        """See KekProvider: the other's, as patient as this."""
        return RetryingProvider(self._provider.of_kind(kind), self._patience)

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
        """See KekProvider: not patient, its caller asks again anyway."""
        self._provider.health()

    def _retry(self, attempt: Callable[[], _T]) -> _T:
        patience = self._patience
        while True:
            try:
                return attempt()
            except UnavailableError as error:
                left = patience.end - patience.clock()
                if left <= 0:
                    raise
                patience.on_retry(error, left)
                patience.sleep(min(_PAUSE, left))
