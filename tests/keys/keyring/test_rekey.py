"""The rekey's row: begun once, ended once, and given up where the study is shredded meanwhile."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coffer.keys.errors import FormatError, KeyUnavailableError, ShreddedError, SupersededError, UnavailableError
from coffer.keys.keyring import rekey, shred
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rekey import Phase, Rekey
from coffer.keys.keyring.tombstone import Reason, Tombstone
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile
from coffer.keys.values.waiting_event import WaitingEvent
from tests.keys.left import left

NAME = b"n" * 16


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[Keyring]:
    generate_keyfile(tmp_path / "key")
    ring = Keyring.create(tmp_path / "keyring", KeyFileProvider(tmp_path / "key"), bytes(range(16)))
    yield ring
    assert ring._store.complaint() is None
    ring.close()


def event(made: Rekey) -> WaitingEvent:
    return left(b"started", made.old)


def begin(keyring: Keyring, old: bytes) -> Rekey:
    return rekey.begin(keyring, old, NAME, 7, 1000, os.urandom, event)


def test_both_keys_open_until_the_old_one_is_destroyed(keyring: Keyring) -> None:
    old = keyring.new_study()
    made = begin(keyring, old.key_id)
    assert keyring.study(made.new).kcv != keyring.study(old.key_id).kcv == old.kcv
    assert rekey.inactive_keys(keyring) == {made.new}
    made = rekey.update(keyring, made, replace(made, phase=Phase.SWITCHED))
    assert rekey.inactive_keys(keyring) == {old.key_id}
    changes = keyring.changes()
    shred.supersede(keyring, made, now_ms=5, until_ms=6)
    assert keyring.changes() == changes + 1
    assert (rekey.under_way(keyring), rekey.inactive_keys(keyring)) == ([], frozenset())
    with pytest.raises(SupersededError):
        keyring.study(old.key_id)
    with pytest.raises(SupersededError):
        begin(keyring, old.key_id)
    with pytest.raises(ShreddedError):
        shred.supersede(keyring, made, now_ms=5, until_ms=6)
    assert shred.current(keyring, old.key_id) == made.new
    assert shred.waiting(keyring) == {}


def test_begun_twice_it_is_one_and_forgets_what_stopped_it(keyring: Keyring) -> None:
    old = keyring.new_study().key_id
    made = begin(keyring, old)
    stuck = rekey.update(keyring, made, replace(made, stuck=9, done=1, total=3))
    assert rekey.of_key(keyring, old) == stuck
    assert begin(keyring, old) == replace(stuck, stuck=rekey.NOT_STUCK)
    assert keyring.count() == 2
    with pytest.raises(UnavailableError):
        rekey.update(keyring, stuck, replace(stuck, done=2))


def test_a_key_that_is_not_there_or_shredded_is_refused(keyring: Keyring) -> None:
    with pytest.raises(KeyUnavailableError):
        begin(keyring, bytes(16))
    gone = keyring.new_study().key_id
    shred.schedule(keyring, {gone: NAME}, now_ms=1, until_ms=2)
    for _ in range(2):
        with pytest.raises(ShreddedError):
            begin(keyring, gone)
        shred.drop(keyring, [gone])
    assert rekey.under_way(keyring) == []


def test_a_shred_of_either_key_takes_both(keyring: Keyring) -> None:
    for which in ("old", "new"):
        made = begin(keyring, keyring.new_study().key_id)
        fresh = shred.schedule(keyring, {getattr(made, which): NAME}, now_ms=1, until_ms=2)
        assert sorted(fresh) == sorted((made.old, made.new))
        assert rekey.of_key(keyring, made.old) is None
        with pytest.raises(ShreddedError):
            rekey.update(keyring, made, replace(made, done=1))
        with pytest.raises(ShreddedError):
            shred.supersede(keyring, made, now_ms=5, until_ms=6)


def test_a_rotation_moves_both_keys(keyring: Keyring) -> None:
    made = begin(keyring, keyring.new_study().key_id)
    assert keyring.rotate().rewrapped == 2
    shred.supersede(keyring, made, now_ms=5, until_ms=6)
    assert shred.tombstones(keyring)[made.old].epoch == 2
    keyring.study(made.new)


@pytest.mark.parametrize("data", [b"", bytes(60), b"\0\1\0\3" + bytes(56), b"\0\2\0\1" + bytes(56), bytes(61)])
def test_rows_that_are_none_are_rejected(data: bytes) -> None:
    with pytest.raises(FormatError):
        Rekey.decode(bytes(16), data)


def test_a_tombstone_has_a_successor_only_where_the_key_was_replaced() -> None:
    stone = Tombstone(1, 2, 3, NAME)
    assert Tombstone.decode(stone.encode()) == stone
    for wrong in (replace(stone, reason=Reason.REKEYED), replace(stone, successor=b"s" * 16)):
        with pytest.raises(FormatError):
            Tombstone.decode(wrong.encode())
