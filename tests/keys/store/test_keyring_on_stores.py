"""A real keyring on every store: keys made, rotated, shredded and replaced, also while answers are lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from coffer.keys.clock import clock_ms
from coffer.keys.errors import LockedError, UnavailableError
from coffer.keys.keyring import founding, rekey, shred
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.store.keyring_store import KeyringStore
from tests.keys.conftest import ARCHIVE_ID
from tests.keys.left import left

T = TypeVar("T")
NAME = bytes(range(16))


def again(do: Callable[[], T]) -> T:
    """Do it until an answer comes: what a sender of objects and an administrator do."""
    while True:
        try:
            return do()
        except (UnavailableError, LockedError):
            continue


def founded(store: KeyringStore, provider: KeyFileProvider) -> Keyring:
    while store.get(b"H") is None:
        again(lambda: store.get(b"H") or founding.create_rows(store, provider, ARCHIVE_ID, os.urandom, clock_ms))
    return Keyring(store, provider, os.urandom, clock_ms)


def test_a_keyring_works_on_every_store(bare: KeyringStore, provider: KeyFileProvider) -> None:
    store = bare
    keyring = founded(store, provider)
    keys = {(made := again(keyring.new_study)).key_id: made.dek.reveal() for _ in range(8)}
    gone, old = list(keys)[:2]
    again(lambda: shred.schedule(keyring, {gone: NAME}, now_ms=1, until_ms=2))
    again(lambda: shred.drop(keyring, [gone]))
    begun = again(lambda: rekey.begin(keyring, old, NAME, 0, 1, os.urandom, lambda made: left(made.old)))
    again(lambda: shred.supersede(keyring, begun, now_ms=1, until_ms=2) if rekey.of_key(keyring, old) else None)
    again(keyring.rotate)
    while keyring.partly_rotated():
        again(keyring.rotate)
    keyring = Keyring(store, provider, os.urandom, clock_ms)
    assert {key_id: keyring.study(key_id).dek.reveal() for key_id in list(keys)[2:]} == dict(list(keys.items())[2:])
    assert shred.current(keyring, old) == begun.new
    assert keyring.study(begun.new)
    assert shred.is_shredded(keyring, gone)
    assert keyring.count() == len(keyring.study_key_ids())
    assert [each.rows for each in keyring.epochs()][-1] == keyring.count()
    assert keyring.complaint() is None
