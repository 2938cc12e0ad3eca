"""Every worker process of a server is confined before it serves anybody, and what the kernel lacks is told."""

import os
import platform
import signal
from pathlib import Path

import pytest

from coffer.server.config.settings import Config, Logging
from coffer.server.confine import landlock, seccomp
from coffer.server.main.service import Server
from coffer.server.observe import logs
from coffer.server.workers import supervisor
from coffer.server.workers.messages import Ready
from tests.conftest import absent
from tests.server.workers import test_workers
from tests.server.workers.test_workers import connect, store, wait_for, workers

config = test_workers.config


def test_every_worker_is_confined_also_one_that_was_started_again(config: Config) -> None:
    if landlock.version() < 6 or platform.machine() not in seccomp.MACHINES:
        absent("a kernel with Landlock 6")
    with Server(config) as server:
        victim = min(workers())
        os.kill(victim, signal.SIGKILL)
        wait_for("a new worker", lambda: len(workers() - {victim}) == 2 and not server.concerns())
        for pid in workers():
            for task in Path(f"/proc/{pid}/task").iterdir():  # each of its threads
                state = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
                assert (state["NoNewPrivs"], state["Seccomp"]) == ("1", "2")


def test_what_the_kernel_cannot_forbid_is_told_and_stops_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(Logging(format="text"))
    decode = supervisor.messages.decode_ready
    lacking = Ready(("system calls (no filter for riscv64)",))
    monkeypatch.setattr(supervisor.messages, "decode_ready", lambda data: decode(data) and lacking)
    with Server(config) as server:
        assert server.reasons() == []
        (concern,) = server.concerns()
        assert "system calls (no filter for riscv64)" in concern
        assert "hardening.md" in concern
        with connect(config) as peer:
            assert store(peer, 1) == 0
    assert capsys.readouterr().err.count("worker.unconfined") == 1  # for two workers
