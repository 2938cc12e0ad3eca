"""Promise: a clock that is wrong grants nothing. What time alone permits waits until a person has confirmed the clock.

Adversary "a clock": NTP, a battery, a hypervisor or an insider sets it forwards or backwards, once or twice, while a
server runs or between two commands, with a start of the machine in between. Crossed with everything that time permits:
the end of a retention, the last day of a hold, the window of an erasure, the age at which keys are rotated.
"""

import datetime as dt
import json
import shutil
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
from coffer.keys.errors import AccessDeniedError
from coffer.keys.keyring.shred import tombstones
from coffer.server.access.principal import Principal
from coffer.server.clock import watching
from coffer.server.config.load import load_config
from coffer.server.engine.erasure_state import erasures
from coffer.server.engine.opening import open_for_keys, open_reading, open_writer
from coffer.server.erasure.finish import finish
from coffer.server.erasure.shred import Authorization, Shredding
from coffer.server.keyops.epochs import EpochAdmin
from coffer.server.retention.selection import by_study
from tests.peers import coffer_process
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import store
from tests.promises.test_holds_hold import data_set, item, put, shred
from tests.server.filled import copy_archive, run, told
from tests.set_clock import DAY_MS, SetClock

YEAR_MS = 366 * DAY_MS
JUMP_MS, MINUTE_MS = 30 * YEAR_MS, 60_000
KEPT, HELD, ERASED, SHREDDED, FREE = "1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4", "1.2.3.5"
RULES = "rotate_days = 365\nshred_hold_days = 30\n\n[retention]\nyears = 10\n"
REMEDY = "coffer clock confirm"
OFFICER = Principal.person("Jane", "jane")


@dataclass(frozen=True)
class World:
    """An archive with a study in its retention, one on hold for some days, one whose erasure waits only for its window,
    one that was shredded just now, and one that nothing keeps."""

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

    def codes(self) -> list[str]:
        """The codes of those."""
        return [each.code for each in self.events()]

    def last_ms(self) -> int:
        """The time of the log's last record."""
        with open_reading(load_config(self.coffer.config)) as engine:
            return [header.time_ms for _, header in engine.reader.records()][-1]

    def rotates(self) -> bool:
        """Whether the keys are rotated because of their age."""
        with open_writer(load_config(self.coffer.config)) as engine:
            return EpochAdmin(engine.folder, engine.keyring, engine.config.keys, OFFICER, "a test").rotate_if_old()

    def require_nothing_granted(self) -> None:
        """Nothing that only time permits is permitted, and where the clock says otherwise, the refusal says why."""
        is_ahead = self.clock.now_ms > self.right_ms()
        for study in (KEPT, HELD):
            told_cause = shred(study, code=10).output
            assert (REMEDY in told_cause) == is_ahead, told_cause
            assert told("shred", study, "--dry-run")["refused"]
        assert (REMEDY in run("shred", "finish", code=10 if is_ahead else 0).output) == is_ahead
        assert REMEDY in run("shred", "finish", "--early", "--destroy", code=10).output
        assert self.erasures() == (0, 2)
        assert not self.rotates()

    def right_ms(self) -> int:
        """What a right clock would show while not much time has passed."""
        return time.time_ns() // 1_000_000 + MINUTE_MS

    def require_granted(self) -> None:
        """Everything that time permits is permitted."""
        assert self.erasures() == (1, 1)
        shred(KEPT)
        shred(HELD)
        assert self.rotates()
        run("shred", "finish")
        run("shred", "finish", "--destroy")
        assert self.erasures() == (2, 2)

    def erasures(self) -> tuple[object, object]:
        """How many are effective, and how many are not."""
        status = told("status")
        return status["shreds_effective"], status["shreds_scheduled"]

    def confirm(self, *words: str, code: int = 0) -> str:
        """Confirm the clock."""
        return run("clock", "confirm", "--reason", "set by hand", *words, code=code).output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that each test gets a copy of, in `kept` with its mark beside it, and its key."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        SetClock(folder / "clock.json").install(patch)
        coffer = CofferProcess(folder)
        coffer.init()
        today = dt.datetime.now(dt.UTC).date()
        put(
            data_set(KEPT, "1.2.3.1.1", date=f"{today:%Y%m%d}"),
            *(data_set(study, f"{study}.1", f"P-{study}", date="19900101") for study in (HELD, ERASED, SHREDDED, FREE)),
        )
        coffer.write_config(RULES)
        shred(ERASED)
        run("shred", "finish", "--early", "--destroy")
        shred(SHREDDED)
        until = today + dt.timedelta(days=20)
        run("hold", "add", HELD, "--reason", "court case", "--until", until.isoformat())
        copy_archive("archive", "kept")
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    clock = SetClock(tmp_path / "clock.json")
    clock.install(monkeypatch)
    monkeypatch.setattr(coffer_process, "COFFER", clock.program(tmp_path / "coffer-with-clock"))
    copy_archive(made / "kept", "archive")
    shutil.copytree(made / "keys", "keys")
    coffer = CofferProcess(tmp_path)
    coffer.write_config(RULES)
    yield World(coffer, clock)
    coffer.stop()
    run("verify", "--level", "decrypt")
    run("index", "rebuild")
    assert told("status")["index_lag"] == 0


def nothing(_world: World) -> None:
    """No more than the jump."""


def noted(_world: World) -> None:
    """A command notes it."""
    run("checkpoint", "sign")


def noted_and_restarted(world: World) -> None:
    """A command notes it; then the machine starts again."""
    run("checkpoint", "sign")
    world.clock.restart()


def noted_and_back(world: World) -> None:
    """A command notes it; then the clock is set back, by NTP for instance."""
    run("checkpoint", "sign")
    world.clock.jump(-JUMP_MS)


def noted_and_further(world: World) -> None:
    """A command notes it; then the clock jumps again."""
    run("checkpoint", "sign")
    world.clock.jump(JUMP_MS)


AFTER_A_JUMP = [nothing, noted, noted_and_restarted, noted_and_back, noted_and_further]


@pytest.mark.parametrize("then", AFTER_A_JUMP)
def test_a_clock_that_jumps_forwards_grants_nothing(world: World, then: Callable[[World], None]) -> None:
    world.clock.jump(JUMP_MS)
    then(world)
    world.require_nothing_granted()
    shred(FREE)  # which nothing keeps, whatever the time
    put(data_set("1.2.3.9", "1.2.3.9.1"))
    assert "1.2.3.9" in run("find", "--level", "study").output
    assert "in doubt" in run("clock", "show", code=1).output
    assert "in doubt" in run("status").output
    assert world.codes() == ["clock.doubted"]


def test_time_that_really_passes_grants_what_it_should(world: World) -> None:
    world.clock.wait(10 * DAY_MS)
    assert world.erasures() == (0, 2)
    world.clock.restart()
    world.clock.wait(11 * YEAR_MS)
    world.require_granted()
    assert world.codes() == []
    assert "not in doubt" in run("clock", "show").output


def test_a_doubt_outlives_years_until_it_is_confirmed(world: World) -> None:
    world.clock.jump(JUMP_MS)
    noted_and_back(world)
    world.clock.restart()
    world.clock.wait(11 * YEAR_MS)
    world.require_nothing_granted()
    world.confirm()
    world.require_granted()


def test_a_clock_that_is_confirmed_grants_again(world: World) -> None:
    """The machine had slept in a way that its own count of time does not show."""
    world.clock.jump(JUMP_MS)
    world.require_nothing_granted()
    world.confirm()
    world.require_granted()
    assert world.codes() == ["clock.doubted", "clock.confirmed"]  # the log was not ahead


def test_a_log_that_ran_ahead_goes_on_from_the_confirmed_time(world: World) -> None:
    world.clock.jump(JUMP_MS)
    put(data_set("1.2.3.9", "1.2.3.9.1"))
    world.clock.jump(-JUMP_MS)
    put(data_set("1.2.3.10", "1.2.3.10.1"))
    assert world.last_ms() > world.clock.now_ms + JUMP_MS - DAY_MS
    at = dt.datetime.fromtimestamp(world.clock.now_ms / 1000, dt.UTC)
    assert "5 minutes away" in world.confirm("--at", (at + dt.timedelta(minutes=6)).isoformat(), code=12)
    world.confirm("--at", at.isoformat(), "--officer", "Meyer")
    assert abs(world.last_ms() - world.clock.now_ms) < MINUTE_MS
    _, confirmed, begun = world.events()
    assert isinstance(confirmed, ClockConfirmed)
    assert (confirmed.by.name, confirmed.reason) == ("Meyer", "set by hand")
    assert isinstance(begun, LogEpochBegun)
    assert (begun.epoch, begun.why) == (1, "clock")
    for study in ("1.2.3.9", "1.2.3.10"):
        put(data_set(study, f"{study}.2"))
    assert abs(world.last_ms() - world.clock.now_ms) < MINUTE_MS
    world.clock.jump(JUMP_MS)  # and once more
    put(data_set("1.2.3.11", "1.2.3.11.1"))
    world.clock.jump(-JUMP_MS)
    world.confirm()
    assert [event.epoch for event in world.events() if isinstance(event, LogEpochBegun)] == [1, 2]
    assert "nothing to confirm" in world.confirm(code=12)


def test_a_confirmation_that_was_stopped_is_carried_out_once_by_the_next_writer(world: World) -> None:
    world.clock.jump(JUMP_MS)
    noted_and_back(world)
    with open_for_keys(load_config(world.coffer.config)) as engine:
        watching.confirm(engine.keyring, engine.policy, "set by hand", OFFICER)
    for _ in range(2):
        noted(world)
        assert world.codes() == ["clock.doubted", "clock.confirmed", "log.epoch_begun"]


def test_a_clock_that_goes_back_behind_the_log_is_in_doubt_and_shortens_no_window(world: World) -> None:
    world.clock.jump(-20 * YEAR_MS)
    world.clock.restart()
    shred(FREE)
    world.clock.jump(20 * YEAR_MS)
    world.confirm()
    with open_reading(load_config(world.coffer.config)) as engine:
        ends = [each.until_ms for each in tombstones(engine.keyring).values()]
    assert min(ends) > world.clock.now_ms + 29 * DAY_MS
    (doubted, _) = world.events()
    assert isinstance(doubted, ClockDoubted)
    assert doubted.expected_ms is None
    assert (doubted.last_record_ms or 0) > doubted.wall_ms


def test_a_clock_that_is_wrong_after_a_start_of_the_machine_shows_before_anything_is_written(world: World) -> None:
    world.clock.jump(-20 * YEAR_MS)
    world.clock.restart()
    assert "the log's last record is of" in run("clock", "show", code=1).output
    assert "last record" in str(told("status")["clock"])
    assert world.codes() == []  # both only read
    world.clock.jump(20 * YEAR_MS)
    assert "not in doubt" in run("clock", "show").output
    assert told("status")["clock"] is None


def test_a_machine_that_started_with_a_clock_ahead_is_found_out_when_it_is_set_right(world: World) -> None:
    world.clock.restart()
    world.clock.jump(YEAR_MS)  # nothing shows that it was not switched off for so long
    put(data_set("1.2.3.9", "1.2.3.9.1"))
    assert world.codes() == []
    world.clock.jump(-YEAR_MS)
    noted(world)
    assert world.codes() == ["clock.doubted"]
    world.confirm()
    assert world.codes()[1:] == ["clock.confirmed", "log.epoch_begun"]


def test_a_jump_that_no_process_has_noted_grants_nothing(world: World) -> None:
    """A command asks its user something, and the clock jumps meanwhile."""
    with open_writer(load_config(world.coffer.config)) as engine:
        selections = [by_study(engine, study) for study in (KEPT, HELD)]
        world.clock.jump(JUMP_MS)
        for selection in selections:
            with pytest.raises(AccessDeniedError, match="in doubt") as denied:
                Shredding(engine).shred(selection, Authorization("r", (OFFICER.officer,)))
            assert REMEDY in denied.value.hint()
        assert [each.is_over for each in erasures(engine.keyring)] == [False, False]
        assert not EpochAdmin(engine.folder, engine.keyring, engine.config.keys, OFFICER, "a test").rotate_if_old()
        with pytest.raises(AccessDeniedError, match="in doubt"):
            finish(engine, OFFICER, destroy=False)


def test_a_state_of_the_clock_that_was_altered_grants_nothing_and_stops_nothing(world: World) -> None:
    with open_for_keys(load_config(world.coffer.config)) as engine:
        whole = engine.keyring.row(b"M")
        assert whole is not None
        engine.keyring.amend([(b"M", whole[:-1] + bytes([whole[-1] ^ 1]))])
    world.clock.jump(JUMP_MS)
    put(data_set("1.2.3.9", "1.2.3.9.1"))
    for study in (KEPT, HELD, FREE):
        shred(study, code=3)
    run("shred", "finish", code=3)
    world.confirm(code=3)
    with open_for_keys(load_config(world.coffer.config)) as engine:
        engine.keyring.amend([(b"M", whole)])
    world.require_nothing_granted()


def readiness(coffer: CofferProcess) -> dict[str, Any]:
    """What /readyz answers, with 200."""
    with urllib.request.urlopen(f"http://127.0.0.1:{coffer.http}/readyz", timeout=10) as answer:
        return dict(json.loads(answer.read()))


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_server_goes_on_serving_and_grants_nothing_to_commands_beside_it(world: World) -> None:
    coffer = world.coffer.start()

    def is_in_doubt() -> bool:
        return REMEDY in json.dumps(readiness(coffer))

    assert not is_in_doubt()
    world.clock.jump(JUMP_MS)
    wait_until(is_in_doubt)
    for study in (KEPT, HELD):
        beside = coffer.run("shred", study, "--reason", "r", "--yes", check=False)
        assert (beside.returncode, REMEDY in beside.stderr) == (10, True), beside.stderr
    world.clock.jump(-JUMP_MS)
    coffer.stop()
    coffer.start()
    assert is_in_doubt()
    assert "coffer_clock_in_doubt 1.0" in coffer.metrics()
    assert "coffer_clock_doubts_total 1.0" in coffer.metrics()
    assert [reply.status for reply in store(coffer.port, [item(data_set("1.2.3.9", "1.2.3.9.1"))])] == [0]
    coffer.run("clock", "confirm", "--reason", "set by hand")
    wait_until(lambda: not is_in_doubt())
    assert "coffer_clock_in_doubt 0.0" in coffer.metrics()
    assert [reply.status for reply in store(coffer.port, [item(data_set("1.2.3.9", "1.2.3.9.2"))])] == [0]
    coffer.stop()
    assert world.codes() == ["clock.doubted", "clock.confirmed", "log.epoch_begun"]
    assert abs(world.last_ms() - world.clock.now_ms) < MINUTE_MS
    log = coffer.log.read_text(encoding="utf-8")
    assert "the clock is in doubt" in log
    assert "the clock is confirmed" in log
