"""Orders to the writer: each is waited for by who gave it, and gone once it is carried out or withdrawn."""

from __future__ import annotations

import pytest

from coffer.keys.errors import FormatError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import orders
from coffer.keys.mailbox.orders import SignOrder


def test_an_order_waits_until_it_is_removed(keyring: Keyring) -> None:
    first, second = (orders.give(keyring, now, lambda n, now=now: bytes([now] * n)) for now in (1, 2))  # type: ignore[misc]
    assert (first, second) == (SignOrder(b"\1" * 8, 1), SignOrder(b"\2" * 8, 2))
    assert orders.waiting(keyring) == [first, second]
    assert keyring.row(b"O" + b"\1" * 8) == (1).to_bytes(8, "big")
    for _ in range(2):
        orders.remove(keyring, [first])
    assert [orders.is_waiting(keyring, each) for each in (first, second)] == [False, True]
    orders.remove(keyring, [])
    assert orders.waiting(keyring) == [second]


def test_orders_answered_are_those_that_were_read(keyring: Keyring) -> None:
    """One given while a checkpoint is signed stays: it may cover more than that checkpoint."""
    orders.give(keyring, 1)
    read = orders.waiting(keyring)
    late = orders.give(keyring, 2)
    orders.remove(keyring, read)
    assert orders.waiting(keyring) == [late]


@pytest.mark.parametrize("row", [(b"O" + bytes(8), b"late"), (b"O" + bytes(7), bytes(8)), (b"O", bytes(8))])
def test_what_is_no_order_is_refused(keyring: Keyring, row: tuple[bytes, bytes]) -> None:
    keyring.amend([row])
    with pytest.raises(FormatError):
        orders.waiting(keyring)
