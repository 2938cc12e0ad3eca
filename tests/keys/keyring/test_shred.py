"""Shredding in the keyring: at once, for every process, whole or not at all, and never undone by a bystander."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coffer.keys.errors import FormatError, IntegrityError, KeyUnavailableError, ShreddedError, UnavailableError
from coffer.keys.keyring import rows, shred
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.tombstone import Tombstone
from coffer.keys.mailbox import events
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.values.officer_record import RecordAsRead, RecordKind
from tests.keys.left import left

ROOT = Path(__file__).resolve().parents[3]
NAME = bytes(range(16))


def cut(keyring: Keyring, *key_ids: bytes) -> list[bytes]:
    return shred.schedule(keyring, dict.fromkeys(key_ids, NAME), now_ms=10, until_ms=20)


def test_a_shredded_key_is_given_to_nobody_and_told_from_a_missing_one(
    keyring: Keyring, provider: KeyFileProvider, tmp_path: Path
) -> None:
    kept, gone = keyring.new_study(), keyring.new_study()
    changes = keyring.changes()
    assert cut(keyring, gone.key_id) == [gone.key_id]
    assert cut(keyring, gone.key_id) == []
    assert keyring.changes() == changes + 1
    assert shred.tombstones(keyring) == {gone.key_id: Tombstone(1, 10, 20, NAME)}
    assert keyring.study_even_if_shredded(gone.key_id).dek.matches(gone.dek)
    for step in ("scheduled", "dropped", "opened again"):
        if step == "dropped":
            shred.drop(keyring, [gone.key_id, kept.key_id])
            shred.drop(keyring, [gone.key_id])
        elif step == "opened again":
            keyring.close()
            keyring = Keyring.open(tmp_path / "keyring", provider)
        with pytest.raises(ShreddedError):
            keyring.study(gone.key_id)
        assert keyring.study(kept.key_id).dek.matches(kept.dek)
        assert list(shred.waiting(keyring)) == ([gone.key_id] if step == "scheduled" else [])
    with pytest.raises(KeyUnavailableError):
        keyring.study_even_if_shredded(gone.key_id)
    with pytest.raises(KeyUnavailableError):
        keyring.study(b"?" * 16)
    assert keyring._store.complaint() is None
    keyring.close()


def test_nothing_is_shredded_with_a_key_that_is_not_there(keyring: Keyring) -> None:
    kept = keyring.new_study()
    with pytest.raises(KeyUnavailableError):
        cut(keyring, kept.key_id, b"?" * 16)
    assert keyring.study(kept.key_id)
    assert shred.tombstones(keyring) == {}


def test_the_event_and_the_request_go_with_it(keyring: Keyring) -> None:
    key_id = keyring.new_study().key_id
    request, stone = RecordAsRead(RecordKind.REQUEST, b"1234".hex(), b"as it was"), Tombstone(1, 10, 20, NAME)
    keyring.amend([request.row])

    def once(value: bytes) -> list[bytes]:
        return shred.schedule(
            keyring,
            {key_id: NAME},
            now_ms=10,
            until_ms=20,
            event=lambda key, stone: left(stone.encode(), key.key_id),
            done=[request._replace(sealed=value)],
        )

    with pytest.raises(UnavailableError):
        once(b"as it never was")
    assert keyring.study(key_id)
    assert once(b"as it was") == [key_id]
    assert events.waiting(keyring) == [left(stone.encode(), key_id)]
    assert keyring.row(request.row_key) is None


def test_a_tombstone_cannot_be_taken_away_to_get_the_key_back(keyring: Keyring) -> None:
    """Its row says so too, sealed: without the KEK nobody writes another one."""
    key_id = keyring.new_study().key_id
    place = rows.STUDY_PREFIX + key_id
    active = keyring.row(place)
    assert active is not None
    cut(keyring, key_id)
    marked = keyring.row(place)
    assert marked is not None
    keyring._store.put([], [rows.TOMBSTONE_PREFIX + key_id])
    with pytest.raises(ShreddedError):
        keyring.study(key_id)
    keyring._store.put([(place, marked[:4] + active[4:5] + marked[5:])])
    with pytest.raises(IntegrityError):
        keyring.study(key_id)


def test_tombstones_have_one_form() -> None:
    good = Tombstone(3, 10, 20, NAME).encode()
    assert Tombstone.decode(good) == Tombstone(3, 10, 20, NAME)
    for bad in (good[:-1], good + b"\0", b"\0\1" + good[2:], good[:2] + b"\1" + good[3:], good[:3] + b"\2" + good[4:]):
        with pytest.raises(FormatError):
            Tombstone.decode(bad)


def test_names_are_forgotten_and_what_belongs_together_stays_so(keyring: Keyring) -> None:
    one, two, other, kept = (keyring.new_study().key_id for _ in range(4))
    shred.schedule(keyring, {one: NAME, two: NAME, other: b"o" * 16, kept: b"k" * 16}, now_ms=10, until_ms=20)
    assert shred.forget(keyring, [one, two, other, b"?" * 16], os.urandom) == 3
    after = shred.tombstones(keyring)
    assert [after[each].is_forgotten for each in (one, two, other, kept)] == [True, True, True, False]
    assert after[one].name == after[two].name
    assert len({NAME, b"o" * 16, *(each.name for each in after.values())}) == 5
    assert (after[one].epoch, after[one].scheduled_ms, after[one].until_ms) == (1, 10, 20)
    assert shred.forget(keyring, [one, two, other], os.urandom) == 0
    assert keyring.complaint() is None
    with pytest.raises(ShreddedError):
        keyring.study(one)


def test_the_name_in_the_event_opens_with_the_key_alone(keyring: Keyring) -> None:
    key, other = keyring.new_study(), keyring.new_study()
    hidden = key.hidden(NAME)
    assert key.hidden(hidden) == NAME
    assert len({NAME, hidden, other.hidden(NAME)}) == 3


CUTTER = """
import sys
from pathlib import Path
from coffer.keys.keyring import shred
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.keyring.keyring import Keyring
ring = Keyring.open(Path(sys.argv[1]), KeyFileProvider(Path(sys.argv[2])))
for line in sys.stdin:
    print(len(shred.schedule(ring, {bytes.fromhex(line): bytes(16)}, now_ms=1, until_ms=2)), flush=True)
"""


def test_another_process_sees_it_at_once_and_none_is_lost(keyring: Keyring, keyfile: Path, tmp_path: Path) -> None:
    """Two processes shred beside each other while this one makes and opens keys: every answer is right, every time."""
    command = [sys.executable, "-c", CUTTER, str(tmp_path / "keyring"), str(keyfile)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    made = keyring.new_studies(40)
    pipes = subprocess.PIPE
    cutters = [subprocess.Popen(command, stdin=pipes, stdout=pipes, text=True, env=env) for _ in range(2)]

    def work(cutter: subprocess.Popen[str], mine: int, cut: list[bool]) -> None:
        assert cutter.stdin is not None
        assert cutter.stdout is not None
        for key in made[mine::2]:
            keyring.study(key.key_id)
            cutter.stdin.write(key.key_id.hex() + "\n")
            cutter.stdin.flush()
            assert cutter.stdout.readline() == "1\n"
            keyring.new_study()
            with pytest.raises(ShreddedError):
                keyring.study(key.key_id)
            cut.append(True)

    done: list[bool] = []
    threads = [threading.Thread(target=work, args=(cutter, n, done)) for n, cutter in enumerate(cutters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cutter in cutters:
        cutter.communicate()
    assert len(done) == len(made) == keyring.changes() == len(shred.tombstones(keyring))
    assert keyring._store.complaint() is None
