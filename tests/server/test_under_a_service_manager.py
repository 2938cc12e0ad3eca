"""A server and the service manager that started it: what it is told, when it must start the server again, and the end.

The manager is a socket as systemd opens it; the threads are the server's own, stopped in the middle of their work.
"""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from coffer.server.config.load import load_config
from coffer.server.config.settings import Config
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, Offer
from coffer.server.host.service_manager import ServiceManager
from coffer.server.host.watched import Watched
from coffer.server.main.service import Server
from tests.peers.dicom_client import noisy, synthetic
from tests.server.dimse.raw_peer import RawRequestor
from tests.server.filled import free_port, run
from tests.server.host.test_service_manager import Notified


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text(
        f'archive = "data"\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {free_port()}\nprocesses = 1\n'
        f"[http]\nport = {free_port()}\n"
    )
    run("init")
    return load_config(Path("coffer.toml"))


@pytest.fixture
def notified(config: Config) -> Iterator[Notified]:
    there = Notified("notify")
    yield there
    there.socket.close()


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.02)


def readyz(config: Config) -> tuple[int, list[str]]:
    """The status of /readyz and its reasons."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{config.http.port}/readyz", timeout=10) as answer:
            return 200, json.load(answer)["reasons"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["reasons"]


def test_from_the_opening_to_the_end_the_manager_is_told_and_the_end_finishes_what_is_under_way(
    config: Config, notified: Notified
) -> None:
    server, item = Server(config, manager=ServiceManager(str(Path("notify").absolute()))), noisy(1, 4_000_000)
    server.open()
    assert notified.read() == ["STATUS=opening the archive", "READY=1", "STATUS=serving"]
    run("reload")
    begun, done = notified.read()
    assert (begun.split("\n")[0], done) == ("RELOADING=1", "READY=1")
    with RawRequestor(config.dimse.port, [Offer(1, item.sop_class, (EXPLICIT_LE,))]) as peer:
        ending = threading.Thread(target=server.close)

        def pieces() -> Iterator[bytes]:
            yield item.data[:2_500_000]
            ending.start()
            until(lambda: "STOPPING=1" in notified.read())
            until(lambda: not is_listening(config))
            status, reasons = readyz(config)
            assert (status, [reason.split(":")[0] for reason in reasons]) == (503, ["draining"])
            yield item.data[2_500_000:]

        peer.request(peer.context(item.sop_class), dimse.C_STORE, pieces(), AFFECTED_INSTANCE=item.sop_instance)
        assert peer.final().status == 0
        ending.join()
    run("get", "--instance", item.sop_instance, "--out", "out")


def is_listening(config: Config) -> bool:
    try:
        socket.create_connection(("127.0.0.1", config.dimse.port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def stuck_committing(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """The committing thread waits for ever in the middle of a commit, as for a lock that nobody gives back."""
    coordinator, config, item = server._workers._coordinator, server._config, synthetic(1)
    assert coordinator is not None
    with (
        held(coordinator._committer, "commit", monkeypatch) as is_held,
        RawRequestor(config.dimse.port, [Offer(1, item.sop_class, (EXPLICIT_LE,))]) as peer,
    ):
        peer.request(peer.context(item.sop_class), dimse.C_STORE, item.data, AFFECTED_INSTANCE=item.sop_instance)
        assert is_held.wait(60)
        yield coordinator.watched


@contextmanager
def stuck_accepting(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """The accepting thread never comes back from a connection."""
    with held(server._listener, "_begin", monkeypatch) as is_held:
        socket.create_connection(("127.0.0.1", server._config.dimse.port), 5).close()
        assert is_held.wait(60)
        yield server._listener.watched


@contextmanager
def held(whole: object, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A method holds whoever calls it until the block is left."""
    is_held, may_go, method = threading.Event(), threading.Event(), getattr(whole, name)

    def holding(*args: object) -> object:
        is_held.set()
        may_go.wait()
        return method(*args)

    monkeypatch.setattr(whole, name, holding)
    try:
        yield is_held
    finally:
        may_go.set()


@pytest.mark.parametrize("stuck", [stuck_committing, stuck_accepting])
def test_a_server_with_a_thread_that_is_stuck_sends_no_ping_and_one_that_goes_on_does(
    config: Config,
    notified: Notified,
    monkeypatch: pytest.MonkeyPatch,
    stuck: Callable[[Server, pytest.MonkeyPatch], AbstractContextManager[Watched]],
) -> None:
    far = [0.0]
    manager = ServiceManager(str(Path("notify").absolute()), 180.0, clock=lambda: time.monotonic() + far[0])

    def pings() -> int:
        """How many pings a look sends when the next one has long been due."""
        far[0] += 1000.0
        server._look()
        return notified.read().count("WATCHDOG=1")

    with Server(config, manager=manager) as server:
        notified.read()
        assert pings() == 1
        with stuck(server, monkeypatch) as watched:
            monkeypatch.setattr(watched, "_clock", lambda: time.monotonic() + 91.0)
            assert pings() == 0
            assert server.reasons() == []  # nobody else has noticed
        until(lambda: server._jobs.silent_seconds() < 90.0)
        assert pings() == 1
