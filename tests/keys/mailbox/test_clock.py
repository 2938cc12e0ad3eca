"""The state of the clock in the keyring: sealed, changed from what was read, and with its event or not at all."""

from __future__ import annotations

import pytest

from coffer.keys.clock import Reading, Sighting
from coffer.keys.crypto import aead, derive
from coffer.keys.errors import FormatError, IntegrityError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import clock, events
from tests.keys.left import left

NOW, LATER = Reading(1_760_000_000_000, 5_000, "a start"), Reading(1_760_000_900_000, 5_000, "another")
SEEN = Sighting(2_000_000_000_000, 1_760_000_000_000, None)


def test_a_doubt_lasts_from_its_event_to_its_confirmation(keyring: Keyring) -> None:
    nothing = clock.read(keyring)
    assert nothing.state is None
    assert clock.watch(keyring, nothing, NOW)
    watched = clock.read(keyring)
    assert watched.state == clock.ClockState("a start", 1_759_999_995_000)
    assert clock.begin_doubt(keyring, watched, SEEN, left(b"doubted", b"1"))
    doubted = clock.read(keyring)
    assert doubted.state == clock.ClockState("a start", 1_759_999_995_000, SEEN)
    assert clock.confirm(keyring, doubted, LATER, left(b"confirmed", b"2"))
    confirmed = clock.read(keyring)
    assert confirmed.state == clock.ClockState("another", 1_760_000_895_000, None, is_log_behind=True)
    assert clock.watch(keyring, confirmed, NOW)  # the machine starts again before the writer has done its part
    assert clock.settle(keyring, clock.read(keyring))
    assert clock.read(keyring).state == watched.state
    assert [each.body for each in events.waiting(keyring)] == [b"doubted", b"confirmed"]


def test_who_was_slower_changes_nothing_and_leaves_no_event(keyring: Keyring) -> None:
    first = clock.read(keyring)
    assert clock.watch(keyring, first, NOW)
    assert not clock.watch(keyring, first, LATER)
    before = clock.read(keyring)
    assert clock.begin_doubt(keyring, before, SEEN, left(b"one", b"1"))
    assert not clock.begin_doubt(keyring, before, SEEN, left(b"other", b"2"))
    assert not clock.confirm(keyring, before, LATER, left(b"confirmed", b"3"))
    state = clock.read(keyring).state
    assert state is not None
    assert state.doubt == SEEN
    assert [each.body for each in events.waiting(keyring)] == [b"one"]


def test_a_row_that_was_altered_or_is_no_state_is_refused(keyring: Keyring) -> None:
    clock.watch(keyring, clock.read(keyring), NOW)
    sealed = clock.read(keyring).sealed
    assert sealed is not None
    keyring.amend([(clock.ROW, sealed[:-1] + bytes([sealed[-1] ^ 1]))])
    with pytest.raises(IntegrityError):
        clock.read(keyring)
    key, context = keyring.archive_key(derive.CLOCK), b"coffer/clock/v1\0" + keyring.archive_id + clock.ROW
    for plain in (b"no JSON", b'{"boot":"x"}', b'{"boot":"x","offset_ms":1,"more":1}'):
        keyring.amend([(clock.ROW, aead.seal(key, context, plain, bytes))])
        with pytest.raises(FormatError):
            clock.read(keyring)
