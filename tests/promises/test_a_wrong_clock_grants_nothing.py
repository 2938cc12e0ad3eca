"""Promise: a clock that is wrong grants nothing. What time alone permits waits until a person has confirmed the clock.

Adversary "a clock": NTP, a battery, a hypervisor or an insider sets it forwards or backwards, once or twice, while a server
runs or between two commands, with a restart of the machine in between. Crossed with everything that time permits: the end
of a retention, the last day of a hold, the window of an erasure, the age at which keys are rotated, the destruction of
an epoch.
"""

import datetime as dt
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coffer.archive.events import codec
from coffer.archive.events.clocks import ClockConfirmed, ClockDoubted, LogEpochBegun
from coffer.archive.events.event import Event
from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.erasure.finish import finish
from coffer.server.access.principal import Principal
from coffer.keys.errors import AccessDeniedError
from coffer.keys.keyring.shred import tombstones
from coffer.server.keyops.epochs import EpochAdmin
from tests.peers import coffer_process
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, store
from tests.promises.test_holds_hold import data_set, item, put, shred
from tests.server.filled import free_port, run, told
from tests.set_clock import DAY_MS, SetClock

YEAR_MS = 366 * DAY_MS
KEPT, HELD, ERASED, FREE = "1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4"
JUMP_MS = 30 * YEAR_MS
RULES = "\n[retention]\nyears = 10\n"
DOUBT = "coffer clock confirm"


@dataclass(frozen=True)
class World:
    """An archive with a study in its retention, one on hold for some days, one erased today, and one that nothing keeps."""

    coffer: CofferProcess
    clock: SetClock

    def events(self) -> list[Event]:
        """What the log says of the clock, oldest first; the epochs of the log with it."""
        found: list[tuple[int, Any]] = []
        with open_reading(load_config(self.coffer.config)) as engine:
            found += [(each.seq, each.event) for each in engine.events(frozenset({Kind.STATE}))]
            for position, header in engine.reader.records():
                if header.kind == Kind.LOG_EPOCH:
                    found.append((header.seq, codec.decode(engine.reader.read_body(position), header.kind)))
        told = (event for _, event in sorted(found, key=lambda each: each[0]))
        return [each for each in told if isinstance(each, ClockDoubted | ClockConfirmed | LogEpochBegun)]

    def kinds(self) -> list[str]:
        """The codes of those."""
        return [each.code for each in self.events()]

    def last_ms(self) -> int:
        """The time of the log's last record."""
        with open_reading(load_config(self.coffer.config)) as engine:
            return [header.time_ms for _, header in engine.reader.records()][-1]

    def require_nothing_granted(self, said: str = DOUBT) -> None:
        """Nothing that only time could permit is permitted; `said` is in every refusal of it."""
        assert said in shred(KEPT, code=10).output
        assert said in shred(HELD, code=10).output
        assert said in str(told("shred", KEPT, "--dry-run")["refused"])
        status = told("status")
        assert (status["shreds_effective"], status["shreds_scheduled"]) == (0, 1)
        with open_writer(load_config(self.coffer.config)) as engine:
            admin = EpochAdmin(engine.folder, engine.keyring, engine.config.keys, Principal.here(None), "a test")
            assert not admin.rotate_if_old()
            assert engine.keyring.epoch == 1
        with_shred_finish = run("shred", "finish", "--yes", code=None)
        assert with_shred_finish.exit_code in (1, 10), with_shred_finish.output
        with open_reading(load_config(self.coffer.config)) as engine:
            assert engine.keyring.epoch == 1

    def require_granted(self) -> None:
        """Everything that time permits is permitted."""
        shred(KEPT)
        shred(HELD)
        run("shred", "finish", "--yes", "--destroy", code=None)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    clock = SetClock(tmp_path / "clock.json")
    clock.install(monkeypatch)
    monkeypatch.setattr(coffer_process, "COFFER", clock.program(tmp_path / "coffer-with-clock"))
    coffer = CofferProcess(tmp_path, port=free_port(), http=free_port())
    coffer.write_config()
    coffer.init()
    today = f"{dt.datetime.now(dt.UTC):%Y%m%d}"
    put(
        data_set(KEPT, "1.2.3.1.1", date=today),
        data_set(HELD, "1.2.3.2.1", "P-2", date="19900101"),
        data_set(ERASED, "1.2.3.3.1", "P-3", date="19900101"),
        data_set(FREE, "1.2.3.4.1", "P-4", date="19900101"),
    )
    shred(ERASED)
    until = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=20)
    run("hold", "add", HELD, "--reason", "court case", "--until", until.isoformat())
    coffer.write_config(RULES)
    yield World(coffer, clock)
    coffer.stop()
    run("verify", "--level", "decrypt")
    with open_writer(load_config(coffer.config)) as engine:
        assert engine.stats().index_lag == 0
    run("index", "rebuild")


def nothing(_world: World) -> None:
    """No more than the jump."""


def noted_and_back(world: World) -> None:
    """A command notes the jump; then the clock is set back, by NTP for instance."""
    run("status")
    run("checkpoint", "sign")
    world.clock.jump(-JUMP_MS)


def noted_and_restarted(world: World) -> None:
    """A command notes the jump; then the machine starts again."""
    run("checkpoint", "sign")
    world.clock.restart()


def noted_and_years_later(world: World) -> None:
    """A command notes the jump, and nobody confirms anything for years."""
    run("checkpoint", "sign")
    world.clock.wait(11 * YEAR_MS)


def further(world: World) -> None:
    """It jumps again."""
    run("checkpoint", "sign")
    world.clock.jump(JUMP_MS)


@pytest.mark.parametrize("then", [nothing, noted_and_restarted, noted_and_years_later, further])
def test_a_clock_that_jumps_forwards_grants_nothing(world: World, then: Callable[[World], None]) -> None:
    world.clock.jump(JUMP_MS)
    then(world)
    world.require_nothing_granted()
    shred(FREE)  # which nothing keeps, whatever the time
    assert run("clock", "show", code=1).output.count("in doubt") == 1
    assert world.kinds() == ["clock.doubted"]


def test_a_clock_that_jumped_and_is_back_grants_nothing_either(world: World) -> None:
    world.clock.jump(JUMP_MS)
    noted_and_back(world)
    world.require_nothing_granted("until")
    world.clock.wait(11 * YEAR_MS)
    world.require_nothing_granted()
