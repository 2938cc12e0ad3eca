"""An older keyring gets back what the log knows to open its epochs, and nothing newer in it is undone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coffer.keys.keyring.keepers import Burned, KeeperState
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.shares import groups
from coffer.keys.shares.openers import restore
from coffer.keys.values.epoch import EpochState
from tests.keys.left import left

Older = Callable[[], Keyring]


@pytest.fixture
def older(keyring: Keyring, provider: KeyFileProvider, tmp_path: Path) -> Older:
    """Put back the keyring as it is when this fixture is made."""
    shutil.copytree(tmp_path / "keyring", tmp_path / "older", ignore=shutil.ignore_patterns("lock.mdb"))

    def opened() -> Keyring:
        keyring.close()
        return Keyring.open(tmp_path / "older", provider)

    return opened


def test_what_is_missing_comes_back_once(keyring: Keyring, older: Older) -> None:
    of = keyring.make_shares(2, 3)[0].of
    groups.begin(keyring, of, bytes(16), left())
    groups.burn(keyring, of, [1, 2], 5, lambda _: left())
    known = keyring.keepers(), keyring.share_groups(), keyring.burned()
    ring = older()
    assert (ring.share_groups(), ring.burned()) == ([], {})
    assert restore(ring, *known)
    assert (ring.keepers(), ring.share_groups(), ring.burned()) == known
    assert not restore(ring, *known)
    assert ring.complaint() is None
    ring.close()


def test_what_the_keyring_knows_better_stays(keyring: Keyring) -> None:
    of = keyring.make_shares(2, 3)[0].of
    groups.begin(keyring, of, bytes(16), left())
    groups.burn(keyring, of, [1, 2], 5, lambda _: left())
    holding = keyring.keepers()
    keyring.rotate()
    keyring.destroy_epoch(1)
    now = keyring.keepers(), keyring.burned()
    assert not restore(keyring, holding, [of], {of.group: Burned(0b1, 0)})
    assert (keyring.keepers(), keyring.burned()) == now


def test_the_last_receipt_ends_an_epoch_that_was_given_up(keyring: Keyring) -> None:
    keyring.rotate()
    keyring.abandon_epoch(1, lambda _: left())
    (held,) = (each for each in keyring.keepers() if each.epoch == 1)
    assert not restore(keyring, [held], [], {})
    assert keyring.epoch_facts(1).state is EpochState.ABANDONED
    ended = replace(held, state=KeeperState.ENDED, receipt_ms=5, effective_ms=5)
    assert restore(keyring, [ended], [], {})
    assert (ended in keyring.keepers(), keyring.epoch_facts(1).state) == (True, EpochState.DESTROYED)
    assert not restore(keyring, [held], [], {})
