"""Events that wait in the keyring: written with the change that they record, seen by every process, removed once."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.keys.errors import FormatError
from coffer.keys.keyring import shred
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.keys.values.waiting_event import PREFIX, WaitingEvent
from tests.keys.left import left

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = st.integers(0, (1 << 64) - 2)
ANY = st.builds(
    WaitingEvent,
    kind=st.integers(0, 0xFFFF),
    time_ms=st.integers(0, (1 << 64) - 1),
    study_key_id=st.binary(min_size=16, max_size=16),
    content_id=st.binary(min_size=32, max_size=32),
    body=st.binary(min_size=1, max_size=100),
    unique=st.binary(min_size=8, max_size=8),
    number=st.none() | NUMBERS,
)


@given(ANY)
def test_an_event_is_what_its_row_says(event: WaitingEvent) -> None:
    row_key, value = event.row
    assert WaitingEvent.decode(row_key, value) == event
    assert (row_key[:1], len(row_key), len(value)) == (b"P", 17, 66 + len(event.body))
    assert int.from_bytes(row_key[1:9], "big") == event.time_ms == int.from_bytes(value[2:10], "big")
    assert int.from_bytes(value[58:66], "big") == ((1 << 64) - 1 if event.number is None else event.number)


@pytest.mark.parametrize(
    "row",
    [
        (left().row_key, left(b"").encode()),
        (left().row_key, b"cut"),
        (left().row_key[:-1], left().encode()),
        (left().row_key + b"\0", left().encode()),
        (replace(left(), time_ms=1001).row_key, left().encode()),
    ],
    ids=["no body", "cut", "short key", "long key", "another time"],
)
def test_what_is_no_event_is_refused(keyring: Keyring, row: tuple[bytes, bytes]) -> None:
    with pytest.raises(FormatError):
        WaitingEvent.decode(*row)
    keyring.amend([row])
    with pytest.raises(FormatError):
        events.waiting(keyring)


def test_they_wait_oldest_first_until_they_are_delivered(keyring: Keyring) -> None:
    new, old, same = replace(left(), time_ms=9), replace(left(), time_ms=8), replace(left(b"x", b"\1"), time_ms=8)
    events.leave(keyring, [new, same])
    events.leave(keyring, [old])
    assert events.waiting(keyring) == [old, same, new]
    for _ in range(2):
        events.delivered(keyring, same)
    assert events.waiting(keyring) == [old, new]


def test_an_event_comes_and_goes_with_its_change(keyring: Keyring) -> None:
    key_id = keyring.new_study().key_id
    seen: list[list[WaitingEvent]] = []

    def event(*_: object) -> WaitingEvent:
        seen.append(events.waiting(keyring))
        return left(unique=key_id)

    shred.schedule(keyring, {key_id: bytes(16)}, now_ms=1, until_ms=2, event=event)
    assert (seen, events.waiting(keyring)) == ([[]], [left(unique=key_id)])
    assert shred.is_shredded(keyring, key_id)


READER = """
import sys
from pathlib import Path
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.keys.providers.key_file import KeyFileProvider
ring = Keyring.open(Path(sys.argv[1]), KeyFileProvider(Path(sys.argv[2])))
(event,) = events.waiting(ring)
print(event.number, flush=True)
events.tried(ring, event, 7)
sys.stdin.readline()  # killed here: it has appended the event perhaps, and not removed it
"""


def test_a_writer_that_was_stopped_leaves_where_to_look(keyring: Keyring, keyfile: Path, tmp_path: Path) -> None:
    events.leave(keyring, [left()])
    command = [sys.executable, "-c", READER, str(tmp_path / "keyring"), str(keyfile)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "None\n"
        while events.waiting(keyring) == [left()]:
            assert writer.poll() is None
        writer.kill()
    assert events.waiting(keyring) == [replace(left(), number=7)]
    assert [row_key for row_key, _ in keyring.rows(PREFIX)] == [left().row_key]
