"""Signals to a running server: what orders the end, what does nothing, and that nothing is cut short by either."""

import fcntl
import os
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator

from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, Offer
from tests.peers.coffer_process import COFFER, CofferProcess
from tests.peers.dicom_client import Item, noisy, store, synthetic
from tests.peers.ward import health, wait_until
from tests.server.dimse.raw_peer import RawRequestor


def started(coffer: CofferProcess, **more: object) -> subprocess.Popen[bytes]:
    """`coffer serve` as the head of a session of its own, which no terminal belongs to."""
    with coffer.log.open("ab") as log:
        coffer.process = process = subprocess.Popen(
            [str(COFFER), "--config", str(coffer.config), "serve"],
            cwd=coffer.base, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=coffer.environment(),
            start_new_session=True, **more,  # type: ignore[call-overload]
        )  # fmt: skip
    return process


def ended(coffer: CofferProcess) -> int:
    assert coffer.process is not None
    code = coffer.process.wait(30)
    coffer.process = None
    return code


def test_an_object_under_way_is_finished_however_often_the_end_is_ordered(
    new_coffer: Callable[..., CofferProcess],
) -> None:
    coffer = new_coffer(workers=2)
    item = noisy(1, 4_000_000)
    process = coffer.process
    assert process is not None

    def pieces() -> Iterator[bytes]:
        yield item.data[:2_500_000]  # more than is gathered before it is sent
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.1)
        yield item.data[2_500_000:]

    with RawRequestor(coffer.port, [Offer(1, item.sop_class, (EXPLICIT_LE,))]) as peer:
        context = peer.context(item.sop_class)
        peer.request(context, dimse.C_STORE, pieces(), AFFECTED_INSTANCE=item.sop_instance)
        assert peer.final().status == 0
    assert ended(coffer) == 0
    assert coffer.run("get", "--instance", item.sop_instance, "--out", str(coffer.base / "out")).returncode == 0


def test_without_a_terminal_signals_that_order_nothing_do_nothing(new_coffer: Callable[..., CofferProcess]) -> None:
    coffer = new_coffer(serve=False, workers=2)
    process = started(coffer)
    wait_until(lambda: len(coffer.processes()) == 3)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        os.killpg(process.pid, number)  # its worker processes, which may still be loading, get it too
        time.sleep(0.2)
    wait_until(lambda: health(coffer)[0] == 200)
    before = coffer.processes()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        os.killpg(process.pid, number)
    items = [synthetic(n, 1000) for n in range(4)]
    assert [reply.status for item in items for reply in store(coffer.port, [item])] == [0] * 4
    assert coffer.processes() == before
    wait_until(lambda: "a signal is ignored" in coffer.log.read_text())
    os.killpg(process.pid, signal.SIGTERM)
    assert ended(coffer) == 0


def test_a_terminal_that_closes_ends_it_in_order(new_coffer: Callable[..., CofferProcess]) -> None:
    coffer = new_coffer(serve=False, workers=2)
    ours, theirs = os.openpty()

    def at_the_terminal() -> None:
        signal.signal(
            signal.SIGHUP, signal.SIG_DFL
        )  # what this process ignores, as under nohup, its children would too
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    started(coffer, preexec_fn=at_the_terminal, pass_fds=(theirs,))
    os.close(theirs)
    wait_until(lambda: health_or_nothing(coffer) == 200)
    item: Item = synthetic(1, 1000)
    assert [reply.status for reply in store(coffer.port, [item])] == [0]
    os.close(ours)
    assert ended(coffer) == 0
    assert "stopped" in coffer.log.read_text().splitlines()[-1]


def test_the_end_may_be_ordered_while_it_opens(new_coffer: Callable[..., CofferProcess]) -> None:
    coffer = new_coffer(serve=False, workers=2)
    for number in (signal.SIGTERM, signal.SIGINT):
        process = started(coffer)
        wait_until(coffer.answers)
        process.send_signal(number)
        process.send_signal(number)
        assert ended(coffer) == 0
    assert "stopped by a signal while opening" in coffer.log.read_text()
    assert "Traceback" not in coffer.log.read_text()
    coffer.start()
    assert [reply.status for reply in store(coffer.port, [synthetic(1, 1000)])] == [0]


def health_or_nothing(coffer: CofferProcess) -> int:
    try:
        return health(coffer)[0]
    except OSError:
        return 0


def test_a_second_server_is_told_who_serves_the_archive(new_coffer: Callable[..., CofferProcess]) -> None:
    coffer = new_coffer()
    assert coffer.process is not None
    second = coffer.run("serve", check=False)
    assert second.returncode == 7
    assert f"the archive is being written by 'coffer serve' (pid {coffer.process.pid} on " in second.stderr
    assert coffer.ready()
