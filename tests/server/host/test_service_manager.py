"""What a service manager is told: over a real socket, as systemd reads it; and that nothing depends on it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.server.host.service_manager import NOBODY, ServiceManager


class Notified:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def read(self) -> list[str]:
        """The messages that have arrived since."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["a path", "an abstract name"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Notified, str]]:
    is_path = request.param == "a path"
    name = str(tmp_path / "notify") if is_path else f"coffer-tests/{os.getpid()}/{tmp_path.name}"
    notified = Notified(name if is_path else f"\0{name}")
    yield notified, name if is_path else f"@{name}"
    notified.socket.close()


def test_it_is_told_what_goes_on_in_the_words_of_systemd(there: tuple[Notified, str]) -> None:
    notified, address = there
    manager = ServiceManager.of({"NOTIFY_SOCKET": address})
    manager.status("opening the\narchive")
    manager.status("opening the archive")
    manager.ready()
    manager.reloading()
    manager.stopping()
    manager.close()
    manager.ready()
    told = notified.read()
    reload_line, stamp = told[2].split("\n")
    assert told[:2] + told[3:] == ["STATUS=opening the archive", "READY=1", "STOPPING=1"]
    assert reload_line == "RELOADING=1"
    assert int(stamp.removeprefix("MONOTONIC_USEC=")) > 0


def test_a_ping_goes_out_three_times_per_watch_and_not_while_a_part_is_silent(there: tuple[Notified, str]) -> None:
    notified, address = there
    now, silence = [0.0], [0.0]
    manager = ServiceManager(address, 90.0, clock=lambda: now[0])

    def pings_until(end: float) -> int:
        while now[0] < end:
            now[0] += 0.5
            manager.alive(lambda: silence[0])
        return notified.read().count("WATCHDOG=1")

    assert pings_until(90.0) == 3
    silence[0] = 45.0  # half a watch is a pause, more is a part that is stuck
    assert pings_until(180.0) == 3
    silence[0] = 45.1
    assert pings_until(360.0) == 0
    silence[0] = 0.0
    assert pings_until(361.0) == 1
    manager.close()


@pytest.mark.parametrize(
    ("environment", "is_watched"),
    [
        ({"WATCHDOG_USEC": "3"}, True),
        ({"WATCHDOG_USEC": "3", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "3", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({}, False),
    ],
)
def test_it_is_watched_if_that_was_ordered_of_this_process(
    there: tuple[Notified, str], environment: dict[str, str], is_watched: bool
) -> None:
    notified, address = there
    manager = ServiceManager.of({"NOTIFY_SOCKET": address, **environment})
    while manager._clock() - manager._pinged < 0.001:
        pass
    manager.alive(lambda: 0.0)
    manager.close()
    assert notified.read() == ["WATCHDOG=1"] * is_watched


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/notify", "@nobody is here", "vsock:2:1234", "/" * 200])
def test_without_a_listener_nothing_is_told_and_nothing_fails(address: str) -> None:
    manager = ServiceManager(address, 1e-9)
    for tell in (manager.ready, manager.reloading, manager.stopping, lambda: manager.alive(lambda: 0.0)):
        tell()
    manager.status("serving")
    manager.close()
    NOBODY.ready()
    assert not NOBODY.listens
