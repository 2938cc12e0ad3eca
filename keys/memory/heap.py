"""The heap that Python keeps for small objects: overwrites what key bytes were freed in it.

Rule: secrets do not lie here (`keys.memory.secret`), but libraries return digests as `bytes`, and a derived key passes
through one that is freed and not overwritten. Best effort: whoever drops keys calls `sweep` afterwards.
"""

from __future__ import annotations

from typing import Final

__all__ = ["sweep"]

_SIZES: Final = (32, 64, 76)  # bytes: digests of SHA-256 and SHA-512, and what a sealed message is opened with
_OBJECTS: Final = 8192


def sweep() -> None:
    """Overwrite freed places for objects of these sizes, by whichever thread, by taking them all at once; 4 ms."""
    for size in _SIZES:
        _ = [bytes(size) for _ in range(_OBJECTS)]
