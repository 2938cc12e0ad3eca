"""What a process drops of its keys when another one has changed the keyring: what the feed names, and no more."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from coffer.keys.clock import clock_ms
from coffer.keys.errors import ShreddedError
from coffer.keys.keyring import founding, rekey, shred
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.store import writes
from coffer.keys.store.memory_store import MemoryKeyringStore
from tests.keys.conftest import ARCHIVE_ID
from tests.keys.left import left

NAME = bytes(range(16))


@pytest.fixture
def processes(provider: KeyFileProvider) -> tuple[Keyring, Keyring]:
    """Two keyrings over the same rows, as two processes have them."""
    store = MemoryKeyringStore()
    founding.create_rows(store, provider, ARCHIVE_ID, os.urandom, clock_ms)
    return Keyring(store, provider, os.urandom, clock_ms), Keyring(store, provider, os.urandom, clock_ms)


def shredded(ring: Keyring, key_id: bytes) -> None:
    shred.schedule(ring, {key_id: NAME}, now_ms=1, until_ms=2)


def test_only_the_keys_that_went_are_dropped(processes: tuple[Keyring, Keyring]) -> None:
    ours, theirs = processes
    kept, gone, old = (ours.study(key.key_id) for key in ours.new_studies(3))
    shredded(theirs, gone.key_id)
    begun = rekey.begin(theirs, old.key_id, NAME, 0, 1, os.urandom, lambda made: left(made.old))
    assert ours.study(old.key_id) is old  # its objects are being sealed again, and are read until then
    shred.supersede(theirs, begun, now_ms=1, until_ms=2)
    for each in (gone, old):
        with pytest.raises(ShreddedError):
            ours.study(each.key_id)
    assert ours.study(kept.key_id) is kept
    assert ours.gone_since(0).gone == [gone.key_id, writes.SOMETHING_ELSE, old.key_id]


@pytest.mark.parametrize("change", [lambda ring: ring.rotate(), lambda ring: (ring.rotate(), ring.destroy_epoch(1))])
def test_a_change_of_the_epochs_drops_no_key_of_a_study(
    processes: tuple[Keyring, Keyring], change: Callable[[Keyring], object]
) -> None:
    ours, theirs = processes
    kept = ours.new_study()
    change(theirs)
    assert ours.epoch == 2
    assert ours.study(kept.key_id) is kept
    assert ours.new_study().key_id in theirs.study_key_ids()
    assert (1 in ours._epochs.keks) == (theirs.epoch_row(1).wrapped != b"")


def test_whoever_is_too_far_behind_drops_everything(
    processes: tuple[Keyring, Keyring], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "KEPT", 3)
    ours, theirs = processes
    kept, *gone = ours.new_studies(7)
    for key in gone[:3]:
        shredded(theirs, key.key_id)
    assert ours.study(kept.key_id) is kept
    for key in gone[3:]:
        shredded(theirs, key.key_id)
    theirs.rotate()  # four entries
    again = ours.study(kept.key_id)
    assert again is not kept
    assert again.dek.matches(kept.dek)
    for key in gone:
        with pytest.raises(ShreddedError):
            ours.study(key.key_id)
