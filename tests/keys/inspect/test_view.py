"""A keyring looked at without a key: what the view answers, and the rows that a listing complains of."""

from __future__ import annotations

from pathlib import Path

import pytest

from coffer.keys.clock import reading
from coffer.keys.errors import NotFoundError
from coffer.keys.inspect.listing import list_keyring
from coffer.keys.inspect.view import KeyringView
from coffer.keys.keyring import shred
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import clock, events, orders
from coffer.keys.shares import groups
from coffer.keys.values.epoch import EpochState
from tests.keys.left import left


def test_it_answers_as_the_open_keyring_does(keyring: Keyring, tmp_path: Path) -> None:
    gone, going, alive = (each.key_id for each in keyring.new_studies(3))
    shred.schedule(keyring, {gone: bytes(16), going: bytes(16)}, now_ms=1, until_ms=2)
    shred.drop(keyring, [gone])
    of = keyring.make_shares(2, 3)[0].of
    groups.begin(keyring, of, bytes(16), left())
    groups.burn(keyring, of, [1], 5, lambda _: left(unique=b"1"))
    keyring.rotate()
    kept = keyring.epochs(), keyring.keepers(), keyring.burned(), shred.tombstones(keyring), keyring.gone_since(0)
    keyring.close()
    with KeyringView(tmp_path / "keyring") as view:
        assert [view.has_key(each) for each in (gone, going, alive)] == [False, True, True]
        assert [view.tombstone(each) is not None for each in (gone, going, alive)] == [True, True, False]
        assert [view.epoch_state(number) for number in (1, 2, 3)] == [EpochState.RETIRED, EpochState.ACTIVE, None]
        assert [each.state for each in kept[0]] == [EpochState.RETIRED, EpochState.ACTIVE]
        assert [*view.keepers(1), *view.keepers(2)] == kept[1]
        assert (view.share_groups(), view.burned()) == ([of], kept[2])
        assert (view.tombstones(), view.changes(0)) == (kept[3], kept[4])


def test_where_there_is_no_keyring(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        KeyringView(tmp_path / "nothing")


@pytest.mark.parametrize("letter", [b"X", b"Z", b"M", b"?", b"\xff"])
def test_a_listing_names_rows_of_an_unknown_letter(keyring: Keyring, tmp_path: Path, letter: bytes) -> None:
    events.leave(keyring, [left()])
    orders.give(keyring, 1)
    clock.watch(keyring, clock.read(keyring), reading())
    keyring.remember_checkpoint(b"note")
    keyring.amend([(letter + b"1", b"planted")])
    keyring.close()
    found = list_keyring(tmp_path / "keyring")
    told = f"a row of the keyring is of a kind that this version never writes (row {(letter + b'1').hex()})"
    assert (found.complaints, found.events) == ([told], [left()])
