"""One process at a time changes epochs, and nothing moves to a key that its provider would not open again."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from coffer.keys.crypto.shamir import combine
from coffer.keys.disk.lock import ChangeLock, Holder, holder
from coffer.keys.errors import KeyUnavailableError, LockedError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile
from coffer.keys.shares.recovery import Recovery
from coffer.keys.values.epoch import EpochState
from coffer.keys.values.waiting_event import WaitingEvent
from tests.keys.left import left

ROOT = Path(__file__).resolve().parents[3]
ARCHIVE_ID = bytes(range(16))
ROUNDS = int(os.environ.get("COFFER_ROTATION_ROUNDS", "8"))
STUDIES = 20

HOLD = """
import pathlib, sys
from coffer.keys.disk.lock import ChangeLock
with ChangeLock(pathlib.Path(sys.argv[1]) / "LOCK").held("coffer keys rotate", 1):
    print("held", flush=True)
    sys.stdin.read()
"""
OPEN_ALL = """
import pathlib, sys
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.keyring.keyring import Keyring
base = pathlib.Path(sys.argv[1])
ring = Keyring.open(base / "keyring", KeyFileProvider(base / "key"), readonly=True)
print(*sorted(ring.study(key_id).kcv.hex() for key_id in ring.study_key_ids()))
"""


def make(base: Path) -> list[str]:
    """A keyring with some studies; returns their key-check values in order."""
    generate_keyfile(base / "key")
    ring = Keyring.create(base / "keyring", KeyFileProvider(base / "key"), ARCHIVE_ID)
    kcvs = sorted(key.kcv.hex() for key in ring.new_studies(STUDIES))
    ring.close()
    return kcvs


def open_at(base: Path) -> Keyring:
    return Keyring.open(base / "keyring", KeyFileProvider(base / "key"))


def opened_afresh(base: Path) -> list[str]:
    """The key-check values that a new process finds."""
    command = [sys.executable, "-c", OPEN_ALL, str(base)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@contextmanager
def another_process_holds(folder: Path) -> Iterator[int]:
    """While the block runs, a process changes the keys of the keyring in `folder`; its id."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid
        process.kill()


def rotate_and_destroy(base: Path, start: Barrier) -> None:
    """In a process of its own: rotate when the other one does, then destroy what is old, as far as one is let."""
    ring = open_at(base)
    start.wait(30)
    for act in (ring.rotate, lambda: [ring.destroy_epoch(e.epoch) for e in ring.epochs() if is_over(e.state)]):
        try:
            act()
        except LockedError:
            continue
    os._exit(0)


def is_over(state: EpochState) -> bool:
    return state in {EpochState.RETIRED, EpochState.DESTROYING}


def test_two_processes_that_rotate_at_once_lose_nothing(tmp_path: Path) -> None:
    kcvs = make(tmp_path)
    context = multiprocessing.get_context("fork")
    for number in range(ROUNDS):
        start = context.Barrier(2)
        both = [context.Process(target=rotate_and_destroy, args=(tmp_path, start)) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0], number
        assert opened_afresh(tmp_path) == kcvs, number
    ring = open_at(tmp_path)
    assert ring.epoch > ROUNDS / 2
    assert not ring.partly_rotated()
    ring.close()


def test_whoever_comes_second_is_told_who_is_at_it_and_nothing_changes(tmp_path: Path) -> None:
    kcvs = make(tmp_path)
    ring = open_at(tmp_path)
    ring.rotate()
    shares = {str(share.index): share for share in ring.make_shares(2, 2)}
    before = (tmp_path / "key").read_bytes(), ring.rows(b"")
    ring.close()
    recovery = Recovery(tmp_path / "keyring", combine(shares))
    ring = open_at(tmp_path)
    acts: list[Callable[[], object]] = [
        lambda: recovery.move(ring, KeyFileProvider(tmp_path / "key"), "coffer keys recover", lambda _: left()),
        lambda: ring.destroy_epoch(1),
        lambda: ring.rotate().epoch,
    ]
    with another_process_holds(tmp_path / "keyring") as pid:
        assert str(ring.change_holder()) == f"'coffer keys rotate' (pid {pid} on {os.uname().nodename})"
        for act in acts:
            with pytest.raises(LockedError, match=rf"being changed by 'coffer keys rotate' \(pid {pid}"):
                act()
    assert ((tmp_path / "key").read_bytes(), ring.rows(b"")) == before
    assert ring.change_holder() is None  # it was killed
    for act in acts:
        act()
    assert ring.epoch == 3
    ring.close()
    assert opened_afresh(tmp_path) == kcvs


def test_a_thread_may_ask_again_and_another_may_not(tmp_path: Path) -> None:
    lock, told = ChangeLock(tmp_path / "LOCK"), []

    def other() -> None:
        try:
            with lock.held("another thread", 1):
                told.append("held")
        except LockedError as error:
            told.append(str(error))

    with lock.held("coffer shred finish", 1):
        with lock.held("a rotation", 1):
            assert str(holder(tmp_path / "LOCK")).startswith("'coffer shred finish'")
        for _ in range(2):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(20)
    other()
    assert [text[:4] for text in told] == ["the ", "the ", "held"]
    assert "coffer shred finish" in told[0]


class Forgetful(KeyFileProvider):
    """A key file that another process writes between the making of an epoch and its first use."""

    def create_epoch(self, epoch: int, context: bytes) -> tuple[Secret, bytes]:
        before = self._path.read_bytes()
        made = super().create_epoch(epoch, context)
        self._path.write_bytes(before)
        return made


def test_no_key_moves_to_an_epoch_that_its_provider_does_not_open_again(tmp_path: Path) -> None:
    kcvs = make(tmp_path)
    ring = Keyring.open(tmp_path / "keyring", Forgetful(tmp_path / "key"))
    with pytest.raises(KeyUnavailableError, match="no secret for epoch 2"):
        ring.rotate()
    assert ring.epoch == 1
    ring.close()
    assert opened_afresh(tmp_path) == kcvs


def test_a_half_done_rotation_goes_on_only_where_the_provider_opens_its_epoch(tmp_path: Path) -> None:
    """What is in memory is not enough: every key would move out of reach of the next start."""
    kcvs = make(tmp_path)
    ring = open_at(tmp_path)
    with pytest.raises(InterruptedError):
        ring.rotate(_stop)
    assert ring.partly_rotated() == [1]
    both = (tmp_path / "key").read_bytes()
    KeyFileProvider(tmp_path / "key").destroy_epoch(2)
    with pytest.raises(KeyUnavailableError, match="no secret for epoch 2"):
        ring.rotate()
    assert ring.partly_rotated() == [1]
    (tmp_path / "key").write_bytes(both)
    assert (ring.rotate().resumed, ring.partly_rotated()) == (True, [])
    ring.close()
    assert opened_afresh(tmp_path) == kcvs


def _stop(_done: int, _total: int) -> None:
    raise InterruptedError


def test_a_lost_provider_that_keeps_no_key_stops_no_rotation(tmp_path: Path) -> None:
    kcvs = make(tmp_path)
    ring = open_at(tmp_path)
    ring.rotate()
    ring.close()
    KeyFileProvider(tmp_path / "key").destroy_epoch(1)  # behind the keyring's back: for it, epoch 1 is retired
    ring = open_at(tmp_path)
    assert ring.rotate().epoch == 3
    _name_epoch(ring, 9)
    with pytest.raises(KeyUnavailableError, match="epoch 9"):
        ring.rotate()
    ring.close()
    assert len(kcvs) == STUDIES


def _name_epoch(ring: Keyring, epoch: int) -> None:
    """Let one study's row name an epoch that is not there."""
    place, value = ring.rows(rows.STUDY_PREFIX)[0]
    ring.amend([(place, value[:8] + epoch.to_bytes(4, "big") + value[12:])])


def test_an_end_that_changed_meanwhile_is_not_called_done(tmp_path: Path) -> None:
    make(tmp_path)
    ring = open_at(tmp_path)
    ring.rotate()
    place = rows.epoch_row_key(1)

    def meanwhile(*_: object) -> WaitingEvent:
        value = ring.row(place)
        assert value is not None
        ring.amend([(place, value[:24] + bytes(8) + value[32:])])
        return left(b"the end")

    with pytest.raises(LockedError, match="another process changes the keys"):
        ring.destroy_epoch(1, meanwhile)
    assert events.waiting(ring) == []
    assert ring.epoch_row(1).state is EpochState.DESTROYING
    assert ring.destroy_epoch(1).epoch == 1
    assert ring.epoch_row(1).state is EpochState.DESTROYED
    ring.close()


def test_an_epoch_without_its_provider_is_given_up_and_ended_later(tmp_path: Path) -> None:
    kcvs = make(tmp_path)
    ring = open_at(tmp_path)
    ring.rotate()
    told: list[bytes] = []

    def event(*_: object) -> WaitingEvent:
        told.append(b"")
        return left(b"given up", bytes([len(told)]))

    with pytest.raises(Exception, match="in use"):
        ring.abandon_epoch(2, event)
    for _ in range(2):
        assert ring.abandon_epoch(1, event).state is EpochState.ABANDONED
    assert (len(told), any(each.is_ended for each in ring.keepers()), ring.epoch_row(1).wrapped) == (1, False, b"")
    assert ring.rotate().epoch == 3
    ring.destroy_epoch(1)
    assert [[each.epoch for each in ring.keepers() if each.is_ended], ring.epoch_row(1).state] == [
        [1],
        EpochState.DESTROYED,
    ]
    assert ring.abandon_epoch(1, event).state is EpochState.DESTROYED
    ring.close()
    shutil.copytree(tmp_path / "keyring", tmp_path / "copy")
    assert opened_afresh(tmp_path) == kcvs


@pytest.mark.parametrize(
    "pid", ["1" + "0" * 30, "-1", "Infinity", "NaN", "[" * 60_000, '"9"' * 3, str(1 << 31)], ids=lambda text: text[:9]
)
def test_a_text_with_impossible_numbers_names_nobody(pid: str) -> None:
    text = '{"pid": %s, "host": "h", "command": "c", "providers": {}, "since_ms": 0}'
    assert Holder.decode((text % "7").encode()).pid == 7
    assert Holder.decode((text % pid).encode()) == Holder()
    assert Holder.decode(text.replace("0}", f"{1 << 60}}}").replace("%s", "7").encode()) == Holder()
