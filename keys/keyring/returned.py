"""Secrets of destroyed epochs that a provider holds again, because a copy of them was restored.

Rule: each kind of provider is asked once, and only where one of its secrets was destroyed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coffer.keys.errors import CofferError
from coffer.keys.keyring.keepers import Keeper
from coffer.keys.keyring.rows import EpochRow
from coffer.keys.providers.base import KekProvider
from coffer.keys.values.epoch import EpochState

__all__ = ["Returned", "is_held", "returned"]


@dataclass(frozen=True, slots=True)
class Returned:
    """Destroyed epochs whose secrets have returned, and the kinds of providers that could not be asked."""

    epochs: tuple[int, ...]
    unasked: tuple[str, ...]

    def is_gone(self, keeper: Keeper, now_ms: int) -> bool:
        """Whether this secret is gone and nobody can restore it.

        Where a destruction could be revoked for some time, only the provider knows whether it was.
        """
        is_final = keeper.effective_ms == keeper.receipt_ms or keeper.kind not in self.unasked
        return keeper.is_ended and keeper.effective_ms <= now_ms and is_final and keeper.epoch not in self.epochs


def returned(rows: Iterable[EpochRow], keepers: Iterable[Keeper], provider: KekProvider) -> Returned:
    """Find the epochs with a destroyed or abandoned secret that its provider holds again: a copy was restored, or a
    provider that was lost before it destroyed anything is back.

    Asks each kind of provider once, and none where nothing was destroyed.
    """
    abandoned = {row.epoch for row in rows if row.state is EpochState.ABANDONED}
    gone: dict[str, list[Keeper]] = {}
    for each in keepers:
        if each.is_ended or each.epoch in abandoned:
            gone.setdefault(each.kind, []).append(each)
    found: set[int] = set()
    unasked: list[str] = []
    for kind, ended in gone.items():
        try:
            configured = provider.of_kind(kind)
            there = set(configured.describe().epochs)
            found |= {each.epoch for each in ended if each.epoch in there and is_held(configured, each)}
        except CofferError:
            unasked.append(kind)
    return Returned(tuple(sorted(found)), tuple(unasked))


def is_held(configured: KekProvider, keeper: Keeper) -> bool:
    """Whether a provider holds exactly this secret now. Raises what the provider raises."""
    held = configured.holding(keeper.epoch, keeper.name)
    return held is not None and held.id == keeper.id
