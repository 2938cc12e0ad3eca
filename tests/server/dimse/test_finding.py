"""C-FIND on the wire: rows, C-CANCEL whether anything matches or not, and refusals with what offends."""

import itertools
import time
from collections.abc import Iterator

import pytest

from coffer.keys.errors import AccessDeniedError, CofferError, IdentifierError, InputError, UnavailableError
from coffer.server.dimse.listener import Listener
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import IMPLICIT_LE, Offer
from tests.captured_logs import capture_logs
from tests.server.dimse.conftest import Memory
from tests.server.dimse.raw_peer import RawRequestor

FIND = next(uid for uid, model in negotiation.FIND.items() if model == "study")
OFFERS = [Offer(1, FIND, (IMPLICIT_LE,))]


def matching(_: bytes) -> Iterator[bytes]:
    """More rows than anybody waits for."""
    for _ in range(5000):
        time.sleep(0.001)
        yield b"row "


def searching(_: bytes) -> Iterator[None]:
    """No row, for longer than anybody waits."""
    for _ in range(5000):
        time.sleep(0.001)
        yield None


def test_each_match_comes_before_the_end(listener: Listener, memory: Memory) -> None:
    rows = [b"%04d" % number for number in range(100)]
    memory.matches = lambda _: itertools.chain([None], rows, [None])
    with RawRequestor(listener.port, OFFERS) as peer:
        peer.request(peer.context(FIND), dimse.C_FIND, b"query")
        *matches, final = peer.responses()
    assert [m.data for m in matches] == rows
    assert {m.status for m in matches} == {0xFF00}
    assert (final.status, final.data) == (0, None)


@pytest.mark.parametrize("search", [matching, searching])
def test_a_cancel_ends_a_search_that_would_not_end(listener: Listener, memory: Memory, search: object) -> None:
    memory.matches = search  # type: ignore[assignment]
    with RawRequestor(listener.port, OFFERS) as peer:
        message_id = peer.request(peer.context(FIND), dimse.C_FIND, b"query")
        peer.cancel(peer.context(FIND), message_id)
        final = peer.final()
        assert (final.status, final.data, final.comment) == (0xFE00, None, "")
        memory.matches = lambda _: iter(())
        peer.request(peer.context(FIND), dimse.C_FIND, b"query")  # the association goes on
        assert peer.final().status == 0
    assert memory.failures("find", "FE00") == 0


def test_a_cancel_for_another_operation_changes_nothing(listener: Listener, memory: Memory) -> None:
    memory.matches = lambda _: itertools.islice(matching(b""), 500)
    with RawRequestor(listener.port, OFFERS) as peer:
        message_id = peer.request(peer.context(FIND), dimse.C_FIND, b"query")
        peer.cancel(peer.context(FIND), message_id + 1)
        assert len(list(peer.responses())) == 501


REFUSED: dict[str, tuple[CofferError, int, list[int]]] = {
    "no level": (IdentifierError("Query/Retrieve Level is missing", offending=(0x00080052,)), 0xA900, [0x00080052]),
    "not decoded": (InputError("the identifier cannot be decoded"), 0xA900, []),
    "not allowed": (AccessDeniedError("AE title 'TESTER' is not a configured peer"), 0x0124, []),
    "no room": (UnavailableError("the index is closed"), 0xA700, []),
    "what LO cannot hold": (UnavailableError("D:\\archive ist voll, für " + "immer " * 20), 0xA700, []),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_its_cause_on_the_wire_and_in_the_log(listener: Listener, memory: Memory, name: str) -> None:
    error, status, offending = REFUSED[name]

    def refuse(_: bytes) -> Iterator[bytes]:
        raise error

    memory.matches = refuse
    with capture_logs() as logged, RawRequestor(listener.port, OFFERS) as peer:
        peer.request(peer.context(FIND), dimse.C_FIND, b"query")
        final = peer.final()
    assert (final.status, final.offending, final.data) == (status, offending, None)
    assert final.comment
    assert len(final.comment) <= 64
    assert final.comment.isascii()
    assert "\\" not in final.comment
    assert memory.failures("find", f"{status:04X}") == 1
    (line,) = [entry for entry in logged if entry["event"] == "operation failed"]
    assert (line["status"], line["cause"]) == (f"{status:04X}", str(error))
