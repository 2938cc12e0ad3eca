"""What ever opened an epoch: it is kept, a receipt is for one secret only, and shares count until they are burned."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.keys.crypto.shamir import combine
from coffer.keys.errors import FormatError, InputError, IntegrityError, KeyUnavailableError
from coffer.keys.keyring.keepers import Burned, Keeper, KeeperState
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile
from coffer.keys.shares import groups
from coffer.keys.shares.recovery import Recovery
from coffer.keys.values.epoch import EpochState
from coffer.keys.values.waiting_event import WaitingEvent
from tests.keys.left import left


def event(*_: object) -> WaitingEvent:
    return left()


def recovered(tmp_path: Path, keyring: Keyring) -> KeyFileProvider:
    """Another key file that keeps epoch 1 since, because shares brought its key back."""
    shares = keyring.make_shares(2, 3)
    groups.begin(keyring, shares[0].of, bytes(16), event())
    keyring.close()
    generate_keyfile(tmp_path / "rescue")
    rescue = KeyFileProvider(tmp_path / "rescue")
    recovery = Recovery(tmp_path / "keyring", combine({str(s.index): s for s in shares[:2]}))
    ring = Keyring.open(tmp_path / "keyring", recovery.provider(rescue))
    assert recovery.move(ring, rescue, "test", event)
    ring.close()
    return rescue


def test_a_recovery_keeps_what_kept_the_epoch_before(tmp_path: Path, keyring: Keyring, keyfile: Path) -> None:
    keyring.new_study()
    rescue = recovered(tmp_path, keyring)
    ring = Keyring.open(tmp_path / "keyring", rescue)
    ring.rotate()
    ending = ring.destroy_epoch(1)
    assert ending.state is EpochState.DESTROYING
    assert [each.keeper.name for each in ending.missing] == [each.name for each in ring.keepers() if not each.is_ended][
        :1
    ]
    for _ in range(2):  # the one that is configured has none, and had another: it proves nothing
        with pytest.raises(KeyUnavailableError, match="has no secret for epoch 1"):
            ring.destroy_epoch(1).require()
    ending = ring.destroy_epoch(1, provider=KeyFileProvider(keyfile))
    assert (ending.state, len(ending.receipts), ending.missing) == (EpochState.DESTROYED, 1, ())
    assert {each.epoch for each in ring.keepers() if each.is_ended} == {1}
    ring.close()


def test_another_secret_of_the_same_epoch_gives_no_receipt(tmp_path: Path, keyring: Keyring, keyfile: Path) -> None:
    keyring.rotate()
    generate_keyfile(tmp_path / "other", epoch=1)
    with pytest.raises(KeyUnavailableError, match="has another secret for epoch 1"):
        keyring.destroy_epoch(1, provider=KeyFileProvider(tmp_path / "other")).require()
    assert KeyFileProvider(tmp_path / "other").describe().epochs == (1,)  # nor is it touched
    assert keyring.destroy_epoch(1).state is EpochState.DESTROYED


def test_a_key_file_with_another_passphrase_is_the_same_secret(tmp_path: Path) -> None:
    generate_keyfile(tmp_path / "key", Secret(b"old"))
    old, new = (KeyFileProvider(tmp_path / "key", lambda word=word: Secret(word)) for word in (b"old", b"new"))  # type: ignore[misc]
    assert old.holding(1) == new.holding(1) is not None


def test_a_stop_between_destruction_and_receipt_is_not_for_ever(
    tmp_path: Path, keyring: Keyring, keyfile: Path
) -> None:
    keyring.rotate()
    shutil.copy(keyfile, tmp_path / "copy")

    def stopped(*_: object) -> WaitingEvent:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        keyring.destroy_epoch(1, stopped)
    assert KeyFileProvider(keyfile).describe().epochs == (2,)
    assert [each.state for each in keyring.keepers()] == [KeeperState.ENDING, KeeperState.HOLDS]
    shutil.copy(tmp_path / "copy", keyfile)  # back meanwhile: it is destroyed again, not believed
    assert keyring.destroy_epoch(1).state is EpochState.DESTROYED
    assert KeyFileProvider(keyfile).describe().epochs == (2,)


def test_an_epoch_without_a_keeper_is_not_ended(keyring: Keyring) -> None:
    keyring.rotate()
    keyring.amend([], [each.row_key for each in keyring.keepers() if each.epoch == 1])
    with pytest.raises(IntegrityError, match="does not say which secret"):
        keyring.destroy_epoch(1)


def test_burned_shares_count_once_too_few_are_left(keyring: Keyring) -> None:
    of = keyring.make_shares(3, 5)[0].of
    groups.begin(keyring, of, bytes(16), event())
    for wrong in ([], [0], [6], [1, 17]):
        with pytest.raises(InputError):
            groups.burn(keyring, of, wrong, 7, event)
    assert groups.burn(keyring, of, [1, 1, 2], 7, event) == Burned(0b11, 0)
    assert groups.burn(keyring, of, [2], 8, event).left(of) == 3
    assert groups.burn(keyring, of, [5], 9, event) == Burned(0b10011, 9)
    assert groups.burn(keyring, of, [3], 10, event).closed_ms == 9
    assert keyring.burned() == {of.group: Burned(0b10111, 9)}


@given(st.binary(max_size=90))
def test_bytes_that_no_row_has_are_refused(data: bytes) -> None:
    for kind in (Keeper, Burned):
        try:
            assert kind.decode(data).encode() == data
        except FormatError:
            continue


def test_rows_come_back_as_they_were() -> None:
    for keeper in (
        Keeper(1, bytes(16), "pkcs11", "tökén"),
        Keeper(9, b"x" * 16, "a" * 16, "", KeeperState.ENDED, 5, 6),
    ):
        assert Keeper.decode(keeper.encode()) == keeper
    for broken in (
        b"",
        Keeper(1, bytes(16), "k", "n").encode()[:-1],
        Keeper(1, bytes(16), "k", "n", receipt_ms=1).encode(),
    ):
        with pytest.raises(FormatError):
            Keeper.decode(broken)
