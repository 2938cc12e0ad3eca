"""Give back to an older keyring what the log knows to open an epoch, and what of that has ended since.

Rule: otherwise an erasure would be reported complete while an opener unknown to the keyring still opens what was
erased. Nothing newer in the keyring is undone: a receipt or a burned share that it has stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Burned, Keeper
from coffer.keys.values.epoch import GONE, EpochState

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = ["restore"]

_Rows = list[tuple[bytes, bytes]]


def restore(
    keyring: Keyring, keepers: Iterable[Keeper], groups: Iterable[Group], burned: Mapping[bytes, Burned]
) -> bool:
    """Write the keepers, groups of shares and burned shares (by group) that a keyring lacks or has in an older state.

    An epoch of which no opener is left then counts as destroyed. Returns whether anything was missing; all of it is
    durable on return. Raises UnavailableError.
    """
    fresh = _missing_keepers(keyring, keepers)
    known = {of.group for of in keyring.share_groups()}
    put = [(rows.SHARES_PREFIX + of.group, of.encode()) for of in groups if of.group not in known]
    put += _missing_burned(keyring.burned(), burned) + _ended(keyring, fresh)
    put += [(row_key, each.encode()) for row_key, each in fresh.items()]
    return bool(put) and keyring.amend(put)


def _missing_keepers(keyring: Keyring, keepers: Iterable[Keeper]) -> dict[bytes, Keeper]:
    known = {each.row_key: each for each in keyring.keepers()}
    return {
        each.row_key: each
        for each in keepers
        if each.row_key not in known or (each.is_ended and not known[each.row_key].is_ended)
    }


def _missing_burned(known: Mapping[bytes, Burned], burned: Mapping[bytes, Burned]) -> _Rows:
    return [
        (rows.BURNED_PREFIX + group, each.encode())
        for group, each in burned.items()
        if each.numbers & ~known.get(group, Burned()).numbers
    ]


def _ended(keyring: Keyring, fresh: dict[bytes, Keeper]) -> _Rows:
    now = ({each.row_key: each for each in keyring.keepers()} | fresh).values()
    put = []
    for info in keyring.epochs():
        of = [each for each in now if each.epoch == info.epoch]
        if info.state in GONE - {EpochState.DESTROYED} and of and all(each.is_ended for each in of):
            row = replace(keyring.epoch_row(info.epoch), state=EpochState.DESTROYED, wrapped=b"")
            put.append((rows.epoch_row_key(info.epoch), row.encode()))
    return put
