"""Rotation: every key moves, nothing is lost wherever it is stopped, and whoever works meanwhile goes on."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.keys.crypto import derive
from coffer.keys.errors import ConfigError, IntegrityError, KeyUnavailableError, NotFoundError
from coffer.keys.keyring import rows, signing_key
from coffer.keys.keyring.epoch_end import Receipt
from coffer.keys.keyring.keepers import Keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rotation import Rotated
from coffer.keys.keyring.rows import STUDY_PREFIX
from coffer.keys.mailbox import events
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.sums import RowSums
from coffer.keys.values.epoch import EpochState
from coffer.keys.values.waiting_event import WaitingEvent
from tests.keyless import change, rows_of
from tests.keys.left import left

ARCHIVE_ID = bytes(range(16))
STUDIES = 5


def make(base: Path) -> dict[bytes, bytes]:
    """A keyring with some studies; returns their key-check values."""
    generate_keyfile(base / "key")
    keyring = Keyring.create(base / "keyring", KeyFileProvider(base / "key"), ARCHIVE_ID)
    kcvs = {key.key_id: key.kcv for key in keyring.new_studies(STUDIES)}
    keyring.close()
    return kcvs


def open_at(base: Path) -> Keyring:
    return Keyring.open(base / "keyring", KeyFileProvider(base / "key"))


def all_open(keyring: Keyring, kcvs: dict[bytes, bytes]) -> None:
    assert {key_id: keyring.study(key_id).kcv for key_id in kcvs} == kcvs


def test_every_key_moves_and_stays_the_same(tmp_path: Path) -> None:
    kcvs = make(tmp_path)
    keyring = open_at(tmp_path)
    root = keyring.archive_key(derive.EVENT).reveal()
    seen: list[tuple[int, int]] = []
    done = keyring.rotate(lambda *progress: seen.append(progress))
    assert (done.epoch, done.rewrapped, done.resumed) == (2, STUDIES, False)
    assert seen[-1] == (STUDIES, STUDIES)
    added = keyring.new_study()
    keyring.close()
    keyring = open_at(tmp_path)
    all_open(keyring, {**kcvs, added.key_id: added.kcv})
    assert keyring.archive_key(derive.EVENT).reveal() == root
    assert [(e.epoch, e.state, e.rows) for e in keyring.epochs()] == [
        (1, EpochState.RETIRED, 0),
        (2, EpochState.ACTIVE, STUDIES + 1),
    ]
    assert keyring.rotate().epoch == 3
    all_open(keyring, kcvs)
    keyring.close()


class Stopper:
    """Ends the process at the n-th durable step: a keyring commit, or a change of the key file."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            os._exit(9)


def rotate_until(base: Path, at: int) -> None:
    """In a process of its own: rotate, and die at a step, before it or after it by turns."""
    stopper = Stopper(at)
    put, create = LmdbKeyringStore.put, KeyFileProvider.create_epoch

    def stopping_put(self: LmdbKeyringStore, *args: object, **more: object) -> bool:
        stopper.step()
        done = put(self, *args, **more)  # type: ignore[arg-type]
        stopper.step()
        return done

    def stopping_create(self: KeyFileProvider, *args: object) -> object:
        stopper.step()
        done = create(self, *args)  # type: ignore[arg-type]
        stopper.step()
        return done

    LmdbKeyringStore.put, KeyFileProvider.create_epoch = stopping_put, stopping_create  # type: ignore[method-assign, assignment]
    import coffer.keys.keyring.rotation

    coffer.keys.keyring.rotation._PAGE = 2
    keyring = open_at(base)
    keyring.rotate()
    os._exit(0)


def test_killed_at_every_step_it_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    kcvs = make(tmp_path / "made")
    context = multiprocessing.get_context("fork")
    codes = []
    for at in range(40):
        base = tmp_path / f"at{at}"
        shutil.copytree(tmp_path / "made", base)
        process = context.Process(target=rotate_until, args=(base, at))
        process.start()
        process.join(60)
        codes.append(process.exitcode)
        keyring = open_at(base)
        all_open(keyring, kcvs)
        added = keyring.new_study()
        done = keyring.rotate()
        all_open(keyring, {**kcvs, added.key_id: added.kcv})
        states = [e.state for e in keyring.epochs()]
        assert states[:-1] == [EpochState.RETIRED] * (len(states) - 1)
        assert keyring.epochs()[-1].rows == STUDIES + 1
        assert done.epoch in (2, 3)
        keyring.close()
        shutil.rmtree(base)
        if process.exitcode == 0:
            break
    assert codes[-1] == 0, "the steps did not come to an end"
    assert len(codes) > 10


def rotate_often(base: Path, times: int) -> None:
    keyring = open_at(base)
    for _ in range(times):
        keyring.rotate()
    os._exit(0)


def test_another_process_rotates_while_keys_are_made_and_used(tmp_path: Path) -> None:
    kcvs = make(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=rotate_often, args=(tmp_path, 8))
    process.start()
    keyring = open_at(tmp_path)
    while process.is_alive():
        made = keyring.new_study()
        kcvs[made.key_id] = made.kcv
        keyring._studies._cache.clear()
        all_open(keyring, kcvs)
    process.join()
    assert process.exitcode == 0
    all_open(keyring, kcvs)
    keyring.rotate()
    all_open(keyring, kcvs)
    keyring.close()


def test_a_wrapped_key_put_under_another_study_stays_shut(tmp_path: Path) -> None:
    kcvs = make(tmp_path)
    first, second = list(kcvs)[:2]
    change(tmp_path / "keyring", {STUDY_PREFIX + second: rows_of(tmp_path / "keyring")[STUDY_PREFIX + first]})
    keyring = open_at(tmp_path)
    with pytest.raises(IntegrityError):
        keyring.study(second)
    with pytest.raises(IntegrityError):
        keyring.rotate()
    keyring.close()


def test_after_a_rotation_an_old_key_file_does_not_open_the_keyring(tmp_path: Path) -> None:
    make(tmp_path)
    old = (tmp_path / "key").read_bytes()
    keyring = open_at(tmp_path)
    keyring.rotate()
    keyring.close()
    (tmp_path / "key").write_bytes(old)
    with pytest.raises(KeyUnavailableError, match="epoch 2"):
        open_at(tmp_path)


def test_the_store_pages_through_its_rows(tmp_path: Path) -> None:
    store = LmdbKeyringStore(tmp_path / "rows", create=True)
    rows = [(b"K" + bytes((n,)), bytes((n,))) for n in range(10)] + [(b"J1", b""), (b"L1", b"")]
    assert store.begin(rows, RowSums.under(Secret(bytes(32)), os.urandom))
    found: list[tuple[bytes, bytes]] = []
    after = b""
    step: Callable[[], list[tuple[bytes, bytes]]] = lambda: store.page(b"K", after, 3)  # noqa: E731
    while page := step():
        found += page
        after = page[-1][0]
    assert [value for _, value in found] == [bytes((n,)) for n in range(10)]
    store.close()


def test_an_old_epoch_is_destroyed_and_its_backups_open_nothing(tmp_path: Path) -> None:
    kcvs = make(tmp_path)
    shutil.copytree(tmp_path / "keyring", tmp_path / "backup")
    keyring = open_at(tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        keyring.destroy_epoch(1)
    with pytest.raises(NotFoundError):
        keyring.destroy_epoch(7)
    keyring.rotate()
    for _ in range(2):  # the receipt can be had again
        assert keyring.destroy_epoch(1).epoch == 1
    keyring.close()
    keyring = open_at(tmp_path)
    all_open(keyring, kcvs)
    assert [e.state for e in keyring.epochs()] == [EpochState.DESTROYED, EpochState.ACTIVE]
    keyring.close()
    with pytest.raises(KeyUnavailableError):
        Keyring.open(tmp_path / "backup", KeyFileProvider(tmp_path / "key"))


@pytest.mark.parametrize("place", rows.OWN_KEYS)
def test_an_epoch_that_a_key_of_the_archives_own_is_under_is_not_destroyed(tmp_path: Path, place: bytes) -> None:
    kcvs = make(tmp_path)
    keyring = open_at(tmp_path)
    signing_key.begin(keyring, os.urandom, 0, lambda _: left())
    own, before = keyring.own_key(place).reveal(), keyring.row(place)
    assert before is not None
    keyring.rotate()
    keyring.amend([(place, before)])  # as if a rotation had left it behind
    with pytest.raises(ConfigError, match="archive's own"):
        keyring.destroy_epoch(1)
    keyring.rotate()
    keyring.destroy_epoch(1)
    keyring.close()
    keyring = open_at(tmp_path)
    all_open(keyring, kcvs)
    assert keyring.own_key(place).reveal() == own
    keyring.close()


def destroy_until(base: Path, at: int) -> None:
    """In a process of its own: destroy epoch 1, and die at a step."""
    stopper = Stopper(at)
    put, end = LmdbKeyringStore.put, KeyFileProvider.destroy_epoch

    def stopping(inner: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            stopper.step()
            done = inner(*args, **more)
            stopper.step()
            return done

        return call

    LmdbKeyringStore.put, KeyFileProvider.destroy_epoch = stopping(put), stopping(end)  # type: ignore[method-assign, assignment]
    open_at(base).destroy_epoch(1)
    os._exit(0)


def test_killed_at_every_step_of_a_destruction_the_archive_opens(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    kcvs = make(tmp_path / "made")
    keyring = open_at(tmp_path / "made")
    keyring.rotate()
    keyring.close()
    codes = []
    for at in range(20):
        base = tmp_path / f"at{at}"
        shutil.copytree(tmp_path / "made", base)
        process = multiprocessing.get_context("fork").Process(target=destroy_until, args=(base, at))
        process.start()
        process.join(60)
        codes.append(process.exitcode)
        keyring = open_at(base)
        all_open(keyring, kcvs)
        keyring.destroy_epoch(1)
        assert keyring.epochs()[0].state is EpochState.DESTROYED
        keyring.close()
        if process.exitcode == 0:
            break
    assert codes[-1] == 0
    assert len(codes) > 6


def test_the_events_go_with_the_last_steps_and_come_once(keyring: Keyring, provider: KeyFileProvider) -> None:
    keyring.new_studies(3)
    rotated: list[WaitingEvent] = []

    def at_rotation(done: Rotated) -> WaitingEvent:
        rotated.append(left(bytes([done.epoch, done.rewrapped]), b"r"))
        return rotated[-1]

    def at_destruction(receipt: Receipt) -> WaitingEvent:
        return left(receipt.keeper.encode(), b"d" + bytes([len(events.waiting(keyring))]))

    keyring.rotate(event=at_rotation)
    for _ in range(2):
        keyring.destroy_epoch(1, at_destruction)
    found = events.waiting(keyring)
    (place, value), (other, _) = keyring.rows(rows.KEEPER_PREFIX)
    assert found == [left(value, b"d\1"), left(b"\2\3", b"r")]
    assert keyring.epoch_row(1).wrapped == b""
    ended = Keeper.decode(value)
    assert (place[:5], other[:5]) == (
        rows.KEEPER_PREFIX + bytes([0, 0, 0, 1]),
        rows.KEEPER_PREFIX + bytes([0, 0, 0, 2]),
    )
    assert (ended.kind, ended.is_ended) == ("keyfile", True)
    assert 0 < ended.effective_ms == ended.receipt_ms


PROVER = """
import sys
from pathlib import Path
from coffer.keys.keyring.keepers import Keeper
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.keyring.keyring import Keyring
ring = Keyring.open(Path(sys.argv[1]), KeyFileProvider(Path(sys.argv[2])), readonly=True)
for line in sys.stdin:
    ring.check_provider()
    print(ring.epoch, ring.study(bytes.fromhex(line)).kcv.hex(), sorted(ring._epochs.keks), flush=True)
"""


def test_another_process_that_only_reads_follows_a_rotation_and_a_destruction(
    keyring: Keyring, provider: KeyFileProvider, keyfile: Path, tmp_path: Path
) -> None:
    """An idle server proves its key now and then: it must prove the one that is current, not the destroyed one."""
    key = keyring.new_study()
    command = [sys.executable, "-c", PROVER, str(tmp_path / "keyring"), str(keyfile)]
    pipes, env = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with subprocess.Popen(command, stdin=pipes, stdout=pipes, text=True, env=env) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for step, held in ((None, "[1]"), (keyring.rotate, "[1, 2]"), (lambda: keyring.destroy_epoch(1), "[2]")):
            if step is not None:
                step()
            reader.stdin.write(key.key_id.hex() + "\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"{keyring.epoch} {key.kcv.hex()} {held}\n"
        reader.stdin.close()
