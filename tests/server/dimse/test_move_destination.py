"""The destination of a C-MOVE on the wire: unreachable, unknown, slow, breaking off, and how often it is called."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from coffer.server.dimse.listener import Listener
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.scp import move_destination
from tests.captured_logs import capture_logs
from tests.server.dimse.conftest import Memory, free_port
from tests.server.dimse.raw_peer import RawDestination, RawRequestor
from tests.server.dimse.retrieving import MOVE, OFFERS, Stored, failed_list, move, named


def test_a_destination_that_is_not_there_fails_all_and_is_named(
    listen: Callable[..., Listener], memory: Memory
) -> None:
    memory.instances = named(3)
    port = free_port()
    with capture_logs() as logged:
        final = move(listen(destination=port))
    assert (final.status, final.counters) == (0xA702, (-1, 0, 3, 0))
    assert failed_list(final) == ["1.2.0", "1.2.1", "1.2.2"]
    assert final.comment.startswith(f"MOVEDST at 127.0.0.1:{port} cannot be reached")
    (line,) = [entry for entry in logged if entry["event"] == "operation failed"]
    assert (line["service"], line["status"]) == ("move", "A702")
    assert str(line["cause"]).startswith(final.comment)


def test_a_destination_that_takes_no_association_is_asked_once(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(3)
    calls = 0

    def hang_up() -> None:
        nonlocal calls
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()
                calls += 1

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hang_up)
        thread.start()
        final = move(listen(destination=server.getsockname()[1]))
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert (final.status, final.counters, calls) == (0xA702, (-1, 0, 3, 0), 1)


def test_an_unknown_destination(listener: Listener, memory: Memory) -> None:
    with capture_logs() as logged, RawRequestor(listener.port, OFFERS) as peer:
        peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="NOWHERE")
        final = peer.final()
    assert (final.status, final.counters) == (0xA801, (-1, -1, -1, -1))
    assert "NOWHERE" in final.comment
    assert memory.failures("move", "A801") == 1
    assert [entry["status"] for entry in logged if entry["event"] == "operation failed"] == ["A801"]


def test_a_destination_is_told_who_moves(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(2)
    with RawDestination() as destination:
        listener = listen(destination=destination.port)
        with RawRequestor(listener.port, OFFERS, calling="WORKSTATION") as peer:
            peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="MOVEDST")
            peer.final()
            message_id = peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="MOVEDST")
            assert peer.final().status == 0
    told = [(m.text(dimse.ORIGINATOR_AE), m.number(dimse.ORIGINATOR_ID)) for _, m in destination.came]
    assert told == [("WORKSTATION", message_id - 1)] * 2 + [("WORKSTATION", message_id)] * 2


def test_a_destination_that_breaks_off_costs_one_object(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(30)
    bad = {f"1.2.{number}" for number in (3, 4, 8, 11, 14, 17, 20, 29)}
    assert len(bad) > move_destination._MOST_FAILURES
    with RawDestination(lambda m: None if m.text(dimse.AFFECTED_INSTANCE) in bad else 0) as destination:
        final = move(listen(destination=destination.port))
    assert (final.status, final.counters) == (0xB000, (-1, 22, 8, 0))
    assert set(failed_list(final)) == bad
    assert final.comment.endswith("broke the association")
    assert len(destination.came) == 30
    assert destination.associations == len(bad)


def test_a_destination_that_always_breaks_off_is_given_up(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(1000)
    with RawDestination(lambda _: None) as destination:
        final = move(listen(destination=destination.port))
    assert (final.status, final.counters) == (0xA702, (-1, 0, 1000, 0))
    assert len(failed_list(final)) == 1000
    assert destination.associations == move_destination._MOST_FAILURES


def test_more_contexts_than_one_association_holds(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = [Stored(f"1.2.{n}", b"%d" % n, f"1.2.3.4.{n}", f"1.2.5.{n}") for n in range(300)]
    with RawDestination() as destination:
        final = move(listen(destination=destination.port))
    assert (final.status, final.counters) == (0, (-1, 300, 0, 0))
    assert destination.associations == 3
    assert destination.data == {i.sop_instance: i.data for i in memory.instances if isinstance(i, Stored)}


def test_what_the_destination_says_too_late_is_a_failure(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(1)
    with RawDestination(lambda _: time.sleep(1.5) or 0) as destination:
        final = move(listen(destination=destination.port, destination_seconds=0.5))
    assert (final.status, final.counters) == (0xA702, (-1, 0, 1, 0))
    assert final.comment.endswith("does not answer in time")
