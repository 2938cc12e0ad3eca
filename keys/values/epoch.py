"""What a key epoch is, for people and for the floors above: its number, its state, who keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

__all__ = ["GONE", "Epoch", "EpochState"]


class EpochState(IntEnum):
    """New keys go under the newest active epoch; a retired one still opens rows; a destroyed one opens nothing.

    DESTROYING: no longer used, but not every keeper has a receipt yet. ABANDONED: no longer used, and a provider was
    lost before it destroyed its secret.
    """

    ACTIVE = 1
    RETIRED = 2
    DESTROYED = 3
    DESTROYING = 4
    ABANDONED = 5


GONE: Final = frozenset({EpochState.DESTROYING, EpochState.DESTROYED, EpochState.ABANDONED})


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: its number (from 1), the kind of provider that opens it now, its state, and when it was made (ms since
    1970 UTC)."""

    number: int
    provider: str
    state: EpochState
    created_ms: int
