"""The job that watches the clock: noted once, shown while it lasts, and through failures."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.keys.errors import UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile
from coffer.server.access.decision import policy_of
from coffer.server.access.principal import Principal
from coffer.server.clock import trust, watching
from coffer.server.clock.clock_job import ClockJob
from coffer.server.config.settings import Config
from coffer.server.observe.metrics import Metrics
from tests.set_clock import DAY_MS, SetClock

WHO = Principal.person("Jane", "jane")


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetClock:
    made = SetClock(tmp_path / "clock.json")
    made.install(monkeypatch)
    return made


@pytest.fixture
def keyring(tmp_path: Path, clock: SetClock) -> Iterator[Keyring]:
    generate_keyfile(tmp_path / "key")
    ring = Keyring.create(tmp_path / "keyring", KeyFileProvider(tmp_path / "key"), bytes(16))
    yield ring
    ring.close()


def counted(metrics: Metrics) -> tuple[str, str]:
    """The clock's two metrics."""
    lines = metrics.render().decode().splitlines()
    (doubt,) = (line for line in lines if line.startswith("coffer_clock_in_doubt "))
    (doubts,) = (line for line in lines if line.startswith("coffer_clock_doubts_total "))
    return doubt.split()[1], doubts.split()[1]


def test_a_doubt_is_noted_once_and_shown_until_it_is_confirmed(keyring: Keyring, clock: SetClock) -> None:
    metrics = Metrics()
    job = ClockJob(keyring, metrics, lambda: None)
    job.begin()
    assert (job.concerns(), counted(metrics)) == ([], ("0.0", "0.0"))
    clock.wait(400 * DAY_MS)
    assert job.turn() > 0
    assert job.concerns() == []
    clock.jump(DAY_MS)
    for _ in range(3):
        job.turn()
    (concern,) = job.concerns()
    assert "coffer clock confirm" in concern
    assert counted(metrics) == ("1.0", "1.0")
    assert len(events.waiting(keyring)) == 1
    again = ClockJob(keyring, Metrics(), lambda: None)  # after a restart of the server
    again.begin()
    assert again.concerns() == [concern]
    watching.confirm(keyring, policy_of(Config(archive=Path("a"))), "set by hand", WHO)
    job.turn()
    assert (job.concerns(), counted(metrics)) == ([], ("0.0", "1.0"))
    job.end()


def test_a_clock_before_the_last_record_is_in_doubt_except_after_a_confirmation(
    keyring: Keyring, clock: SetClock
) -> None:
    job = ClockJob(keyring, Metrics(), lambda: clock.now_ms + DAY_MS)
    job.begin()
    assert "last record" in job.concerns()[0]
    watching.confirm(keyring, policy_of(Config(archive=Path("a"))), "set by hand", WHO)
    job.turn()  # before the writer continues the log
    assert job.concerns() == []


def test_a_doubt_that_cannot_be_noted_grants_nothing_either(
    keyring: Keyring, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ClockJob(keyring, Metrics(), lambda: None)
    job.begin()
    clock.jump(DAY_MS)

    def full(*_: object, **__: object) -> bool:
        raise UnavailableError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(keyring, "amend", full)
        job.turn()
        (concern,) = job.concerns()
        assert "no space" in concern
        assert trust.granting_ms(keyring) < clock.now_ms - DAY_MS // 2
    job.turn()
    assert "no space" not in str(job.concerns())
