"""A server that is killed while it does what was ordered with the keys, at sampled system calls: the next one goes on.

A rekey, a shred and a rotation that is due wait at the same time. COFFER_EVERY_KILL=1 takes a hundred of the calls.
"""

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.keyring import rows
from coffer.keys.keyring.rows import EpochRow
from coffer.keys.store.keyring_store import scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.values import waiting_event
from coffer.server.config.load import load_config
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.erasure import shred
from coffer.server.host.signals import Signals
from coffer.server.keyops import epoch_job, rekey_job, rekey_order, settlement_job
from coffer.server.main import running
from tests.peers.killed import (
    BOTH,
    EVERY,
    GONE,
    LARGE,
    NOTHING,
    SEED,
    TORN,
    Facts,
    Stage,
    command,
    look,
    set_up,
    small_steps,
)
from tests.peers.killing import KILLED, Fork, attach_killer, attach_tracer, done, load_first, read_trace

load_first(__name__)
KILLS = 100 if EVERY else 2
TAKES = BOTH[:1]
SECONDS = 60


def serve() -> int:
    """Serve until SIGTERM, with less patience than a server has."""
    small_steps()
    settlement_job._CHECKPOINT_SECONDS, settlement_job._SETTLE_SECONDS, epoch_job._POLL_SECONDS = 0.3, 0.1, 0.2
    rekey_job._POLL_SECONDS, rekey_job._GRACE_SECONDS, rekey_job._RETRY_SECONDS = 0.1, 0.0, 0.5
    with Signals() as signals:
        running.serve(load_config(Path("coffer.toml")), signals)
    return 0


def give_orders() -> None:
    """Order a rekey and a shred, and let the epoch grow old; nobody waits for any of it."""
    rekey_order.carry_out = shred.wait_until_settled = lambda *_, **__: True
    assert command("keys", "rekey", LARGE, "--reason", "r", "--yes")[0] == 0
    assert command("shred", TAKES[0], "--reason", "r", "--yes")[0] == 0
    config, folder = load_config(Path("coffer.toml")), ArchiveFolder.open(Path("archive"))
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id))
    keyring.amend([(rows.epoch_row_key(1), replace(keyring.epoch_row(1), created_ms=0).encode())])
    keyring.close()


def wait_until_done() -> None:
    """Return when nothing is left of what was ordered."""
    deadline, keyring = time.monotonic() + SECONDS, LmdbKeyringStore(Path("archive/keyring"), readonly=True)
    while not is_done(keyring):
        assert time.monotonic() < deadline, "the server does not come to an end of it"
        time.sleep(0.05)


def is_done(keyring: LmdbKeyringStore) -> bool:
    """Whether no rekey, event, shredded key or half rotation is there."""
    gone = {key[1:] for key, _ in scan(keyring, rows.TOMBSTONE_PREFIX)}
    undropped = [key for key, _ in scan(keyring, rows.STUDY_PREFIX) if key[1:] in gone]
    states = [EpochRow.decode(value).state.name for _, value in scan(keyring, rows.EPOCH_PREFIX)]
    waiting = scan(keyring, rows.REKEY_PREFIX) or scan(keyring, waiting_event.PREFIX)
    return not undropped and not waiting and states == ["RETIRED", "ACTIVE"]


@contextlib.contextmanager
def serving(base: Path) -> Iterator[Fork]:
    """A server; it is stopped at the end, unless it is dead."""
    fork = Fork(base, serve)
    fork.go()
    pid = fork.process.pid
    assert pid is not None
    deadline = time.monotonic() + SECONDS
    while not is_serving(pid):
        assert fork.process.is_alive(), f"it does not serve: {fork.finish()}"
        assert time.monotonic() < deadline, "it does not serve"
        time.sleep(0.02)
    try:
        yield fork
    finally:
        if fork.process.is_alive():
            os.kill(pid, signal.SIGTERM)
            assert fork.finish() in (0, KILLED)


def is_serving(pid: int) -> bool:
    """Whether it waits to be told to stop: it catches SIGTERM from then on."""
    with contextlib.suppress(FileNotFoundError):
        found = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def ended_well(facts: Facts) -> bool:
    """The study has another key, the other one is shredded, all keys are in the second epoch."""
    states = [(state, count) for _, state, count in facts.epochs]
    whys = sorted(why for why, _ in facts.shreds)
    return states == [("retired", 0), ("active", 3)] and whys == ["rekeyed", "shredded", "shredded"]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with set_up(tmp_path_factory.mktemp("kills")) as stage:
        config = stage.start / "coffer.toml"
        config.write_text(config.read_text().replace("[keys]\n", "[keys]\nrotate_days = 1\n"))
        yield stage


@pytest.mark.timeout(3600 if EVERY else 300)
def test_a_server_killed_in_the_middle_of_it_and_the_next_one_goes_on(stage: Stage) -> None:
    trace = stage.start.with_name("trace")
    stage.put_back(stage.start)
    with serving(stage.base) as server:
        attach_tracer(server, trace)
        done(stage.base, give_orders)
        done(stage.base, wait_until_done)
    assert ended_well(done(stage.base, look))
    found = list(read_trace(trace, stage.base))
    dice, killed = random.Random(SEED), 0
    for point in dice.sample(found, len(found)):
        stage.put_back(stage.start)
        with serving(stage.base) as server:
            attach_killer(server, point)
            done(stage.base, give_orders)
            died = server.process.join(5) or not server.process.is_alive()
        if not died:
            continue  # another thread made that call this time
        killed += 1
        what = f"killed at {point}, seed {SEED}"
        facts = done(stage.base, look)
        stage.check(facts, what, takes=TAKES, gone=(GONE,), harmless=TORN)
        with serving(stage.base):
            done(stage.base, wait_until_done)
        facts = done(stage.base, look)
        stage.check(facts, f"{what}, and served again", takes=(), gone=(GONE, *TAKES), harmless=NOTHING)
        assert (facts.audit, facts.left, facts.unreadable) == ([], [], 0), f"{what}: {facts}"
        assert ended_well(facts), f"{what}: {facts}"
        if killed == KILLS:
            break
    print(f"{killed} servers killed at {len(found)} calls")
    assert killed
