"""Queries and plans share the server: they take turns, have a budget, and end with whoever asked.

An archive in which every search is long is made by letting the searchable table name its one study without end.
"""

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from coffer.index.dicom.identifier import encode_identifier
from coffer.index.query.locate import Locator
from coffer.index.tables.candidates import StudyTable
from coffer.index.tables.catalogue import Catalogue
from coffer.keys.errors import InputError, UnavailableError
from coffer.server.config.settings import Config, Dimse, Http, Keys
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.dimse.protocol.status import status_of
from coffer.server.engine.create import create_archive
from coffer.server.main.demo import encoded, sample_study
from coffer.server.main.service import Server
from coffer.server.services.find import Finder
from coffer.server.workers import messages as m
from coffer.server.workers.search import Search
from coffer.server.workers.turns import Turns
from tests.server.dimse.raw_peer import Broken, Message, RawRequestor
from tests.server.filled import free_port

CT = "1.2.840.10008.5.1.4.1.1.2"
FIND, GET = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.1.3"
LEVEL, NAME, PATIENT_ID, STUDY_UID = 0x00080052, 0x00100010, 0x00100020, 0x0020000D
UID = str(sample_study()[0].StudyInstanceUID)
NOTHING = encode_identifier({LEVEL: ("STUDY",), STUDY_UID: (), NAME: ("NOBODY^*",)}, (), implicit=True)
ALL = encode_identifier({LEVEL: ("STUDY",), STUDY_UID: ()}, (), implicit=True)
EXACT = encode_identifier({LEVEL: ("STUDY",), STUDY_UID: (UID,)}, (), implicit=True)
PATIENT = encode_identifier({LEVEL: ("PATIENT",), PATIENT_ID: (str(sample_study()[0].PatientID),)}, (), implicit=True)


def wait_for(what: str, done: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Site:
    """A running server with one study, and how often a search looked at a candidate."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.port = config.dimse.port
        self.looked = 0
        self._monkeypatch = monkeypatch

    def store(self) -> None:
        ds = sample_study()[0]
        with Requestor("127.0.0.1", self.port, "TESTER", "COFFER", [Offer(1, CT, (EXPLICIT_LE,))], 10.0) as peer:
            assert peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)]) == 0

    def be_large(self) -> None:
        """Let every search go over candidates without end from now on."""

        def candidates(*_: object) -> Iterator[int]:
            while True:
                self.looked += 1
                yield 1

        self._monkeypatch.setattr(StudyTable, "candidates", candidates)

    def peer(self, syntax: str = FIND, source: str = "") -> RawRequestor:
        offers = [Offer(1, syntax, (IMPLICIT_LE,)), Offer(3, CT, (EXPLICIT_LE,))][: 1 + (syntax == GET)]
        return RawRequestor(self.port, offers, source=source)

    def wait_until_nothing_is_searched(self) -> None:
        before = [-1]

        def is_still() -> bool:
            time.sleep(0.3)
            before.append(self.looked)
            return before[-1] == before[-2]

        wait_for("searches go on for peers that left", is_still)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[float], Config]]:
    """Gives a running server whose queries may take so many seconds of processor time."""
    with ExitStack() as stack:

        @cache
        def serve(budget: float) -> Config:
            config = config_in(tmp_path_factory.mktemp("site"), budget)
            stack.enter_context(Server(config))
            return config

        yield serve


def config_in(folder: Path, budget: float) -> Config:
    config = Config(
        archive=folder / "archive",
        dimse=Dimse(port=free_port(), processes=1, query_cpu_seconds=budget),
        http=Http(enabled=False),
        keys=Keys(key_file=folder / "key"),
    )
    create_archive(config)
    return config


@pytest.fixture
def site(
    running: Callable[[float], Config], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Site]:
    made = Site(running(getattr(request, "param", 600.0)), monkeypatch)
    made.store()
    yield made
    made.wait_until_nothing_is_searched()


def answers(peer: RawRequestor, syntax: str, field: int, identifier: bytes) -> list[Message]:
    """Every response to a request, the final one last."""
    peer.request(peer.context(syntax), field, identifier)
    found = [peer.receive()]
    while found[-1].status in {0xFF00, 0xFF01}:
        found.append(peer.receive())
    return found


@pytest.mark.parametrize("site", [0.2], indirect=True)
@pytest.mark.parametrize(("identifier", "has_rows"), [(NOTHING, False), (ALL, True)])
def test_a_query_that_spends_its_budget_fails_and_says_what_to_narrow(
    site: Site, identifier: bytes, has_rows: bool
) -> None:
    site.be_large()
    with site.peer() as peer:
        *rows, final = answers(peer, FIND, dimse.C_FIND, identifier)
        assert (final.status, bool(rows)) == (0xA700, has_rows)
        assert final.text(dimse.COMMENT) == "too costly: narrow it by Study Date, Patient ID or Study UID"
        # The association goes on, and so does what costs little.
        assert [each.status for each in answers(peer, FIND, dimse.C_FIND, EXACT)] == [0xFF00, 0x0000]


@pytest.mark.parametrize("site", [0.2], indirect=True)
def test_a_plan_that_spends_its_budget_fails_and_says_what_to_narrow(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    locate = Locator.locate
    monkeypatch.setattr(
        Locator, "locate", lambda *args: itertools.chain.from_iterable(locate(*args) for _ in itertools.count())
    )
    with site.peer(GET) as peer:
        (final,) = answers(peer, GET, dimse.C_GET, PATIENT)
        assert (final.status, final.text(dimse.COMMENT)) == (0xA700, "too costly: retrieve by study or by series")


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        ({NAME: tuple(f"*{n}*" for n in range(200))}, "too costly: give fewer than 200 values in (0010,0010)"),
        ({NAME: ("*A*",)}, "too costly: narrow it by Study Date, Patient ID or Study UID"),
        ({NAME: ("*A*",), 0x00080020: ("19000101-",)}, "too costly: narrow the Study Date, or use fewer wildcards"),
        ({}, "too costly: narrow it by Study Date, Patient ID or Study UID"),
    ],
)
def test_the_advice_fits_an_error_comment(keys: dict[int, tuple[str, ...]], advice: str) -> None:
    error = Finder.too_costly(encode_identifier({LEVEL: ("STUDY",), **keys}, (), implicit=True), implicit=True)
    assert status_of(error) == (0xA700, advice)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.9"])
def test_costly_queries_leave_room_for_others(site: Site, source: str) -> None:
    site.be_large()
    with ExitStack() as stack:
        costly = [stack.enter_context(site.peer()) for _ in range(8)]
        for peer in costly:
            peer.request(peer.context(FIND), dimse.C_FIND, NOTHING)
        wait_for("the queries to begin", lambda: site.looked > 1000)
        with site.peer(source=source) as honest:
            for _ in range(5):
                assert [each.status for each in answers(honest, FIND, dimse.C_FIND, EXACT)] == [0xFF00, 0x0000]
        with site.peer(GET, source=source) as honest:
            one = encode_identifier({LEVEL: ("STUDY",), PATIENT_ID: ("X",), STUDY_UID: (UID,)}, (), implicit=True)
            assert [each.status for each in answers(honest, GET, dimse.C_GET, one)] == [0x0000]  # of another patient
        site.store()
        assert not any(peer.connection.is_readable() for peer in costly)  # all of them still search


@pytest.mark.parametrize("how", ["cut", "aborted", "cancelled"])
def test_nothing_goes_on_for_a_peer_that_left(site: Site, how: str) -> None:
    site.be_large()
    peers = [site.peer() for _ in range(3)]
    for peer in peers:
        message_id = peer.request(peer.context(FIND), dimse.C_FIND, NOTHING)
        wait_for("the query to begin", lambda: site.looked > 0)
        if how == "cancelled":
            peer.cancel(peer.context(FIND), message_id)
            assert peer.final().status == 0xFE00
        elif how == "aborted":
            peer.connection.send([b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"])
    if how == "cut":
        for peer in peers:
            peer.connection.cut()
    site.wait_until_nothing_is_searched()
    for peer in peers:
        peer.connection.cut()


@pytest.mark.parametrize(("syntax", "field", "identifier"), [(FIND, dimse.C_FIND, ALL), (GET, dimse.C_GET, PATIENT)])
def test_what_waits_for_the_table_to_be_filled_can_be_cancelled(
    site: Site, monkeypatch: pytest.MonkeyPatch, syntax: str, field: int, identifier: bytes
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "wait", lambda _self, seconds=None: time.sleep(seconds or 0) or False)
        with ExitStack() as stack:
            waiting = [stack.enter_context(site.peer(syntax)) for _ in range(6)]
            for peer in waiting:
                message_id = peer.request(peer.context(syntax), field, identifier)
            with site.peer(GET) as other:  # what needs no table does not wait for it
                one = encode_identifier({LEVEL: ("STUDY",), PATIENT_ID: ("X",), STUDY_UID: (UID,)}, (), implicit=True)
                assert [each.status for each in answers(other, GET, dimse.C_GET, one)] == [0x0000]
            for peer in waiting:
                peer.cancel(peer.context(syntax), message_id)
                assert peer.final().status == 0xFE00
    with site.peer() as peer:
        assert [each.status for each in answers(peer, FIND, dimse.C_FIND, ALL)] == [0xFF00, 0x0000]


def test_a_server_that_stops_ends_searches_and_waits_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_in(tmp_path, 600.0)
    with Server(config) as server:
        site = Site(config, monkeypatch)
        site.store()
        site.be_large()
        peers = [site.peer() for _ in range(8)]
        for peer in peers:
            peer.request(peer.context(FIND), dimse.C_FIND, NOTHING)
        wait_for("the queries to begin", lambda: site.looked > 1000)
        server.close()
        finals = [peer.final() for peer in peers]
    assert [(final.status, final.text(dimse.COMMENT)) for final in finals] == [(0xA700, "the server is stopping")] * 8
    with pytest.raises(Broken):
        peers[0].receive()


class _Turn:
    def __init__(self, host: str, name: str, spent: float = 1.0) -> None:
        self.host, self.name, self.spent_seconds = host, name, spent

    def work(self, seconds: float) -> bool:
        raise AssertionError


def order(turns: Turns, count: int) -> str:
    found = [turns._next() for _ in range(count)]
    return "".join(each.name for each in found if isinstance(each, _Turn))


def test_hosts_take_turns_however_many_of_their_searches_wait() -> None:
    turns = Turns()
    for host, name in [*(("1", name) for name in "abcdef"), ("2", "X"), ("3", "Y"), ("2", "Z")]:
        turns.add(_Turn(host, name))
    assert order(turns, 9) == "aXYbZcdef"


def test_within_a_host_every_other_turn_is_for_what_has_taken_little() -> None:
    turns = Turns()
    for name in "ABC":
        turns.add(_Turn("1", name))
    for name in "abcd":
        turns.add(_Turn("1", name, spent=0.0))
    assert order(turns, 7) == "aAbBcCd"


def test_the_thread_that_takes_turns_survives_a_fault() -> None:
    turns, done = Turns(), threading.Event()

    class Last(_Turn):
        def work(self, seconds: float) -> bool:
            done.set()
            return False

    turns.start()
    for _ in range(4):
        turns.add(_Turn("1", "a"))
    turns.add(Last("1", "b"))
    assert done.wait(20)
    assert turns.stop()


def parts(search: Search, replies: list[m.Reply | None]) -> m.Reply | None:
    """Work on a search until its next part is given."""
    search.want()
    before = len(replies)
    while search.work(0.0):
        assert len(replies) == before
    return replies[-1] if len(replies) > before else None


def a_search(steps: Callable[[], Iterator[int | None]], replies: list[m.Reply | None], budget: float = 600.0) -> Search:
    return Search(
        "1",
        steps,
        lambda found, is_last: m.Rows([b"%d" % each for each in found], is_last, True),
        lambda _search, reply: replies.append(None if reply is None else m.decode_reply(reply)),
        rooms=(2, 3),
        is_stopping=lambda: False,
        budget_seconds=budget,
        too_costly=lambda: UnavailableError("too costly"),
    )


def test_a_search_that_failed_is_gone_with_its_line() -> None:
    """With its identifier; not when the garbage collector comes, which it does rarely."""

    def steps() -> Iterator[int | None]:
        raise InputError("too wide", hint="ask for less")

    replies: list[m.Reply | None] = []
    search = a_search(steps, replies)
    search.want()
    assert not search.work(1.0)
    assert isinstance(replies[0], m.Failed)
    left = weakref.ref(search)
    gc.disable()
    try:
        del search
        assert left() is None
    finally:
        gc.enable()


def test_what_was_found_is_given_before_the_error_that_ended_the_search() -> None:
    def steps() -> Iterator[int | None]:
        yield from (1, None, 2, 3)
        raise UnavailableError("a fault")

    replies: list[m.Reply | None] = []
    search = a_search(steps, replies)
    assert parts(search, replies) == m.Rows([b"1", b"2"], False, True)
    assert parts(search, replies) == m.Rows([b"3"], False, True)
    for _ in range(2):
        failed = parts(search, replies)
        assert isinstance(failed, m.Failed)
        assert failed.message == "a fault"


def test_a_budget_is_counted_over_all_parts() -> None:
    def steps() -> Iterator[int | None]:
        for number in itertools.count():
            sum(range(20_000))
            yield number

    replies: list[m.Reply | None] = []
    search = a_search(steps, replies, budget=0.05)
    while not isinstance(parts(search, replies), m.Failed):
        assert len(replies) < 100_000
    assert search.spent_seconds >= 0.05
    assert sum(len(each.rows) for each in replies if isinstance(each, m.Rows)) > 0


def test_a_fault_of_ours_in_a_search_is_no_answer() -> None:
    def steps() -> Iterator[int | None]:
        yield 1
        raise ZeroDivisionError

    replies: list[m.Reply | None] = []
    assert parts(a_search(steps, replies), replies) is None
    assert replies == [None]


def test_a_search_that_nobody_waits_for_takes_no_step_more() -> None:
    taken: list[int] = []

    def steps() -> Iterator[int | None]:
        for number in itertools.count():
            taken.append(number)
            yield None

    replies: list[m.Reply | None] = []
    search = a_search(steps, replies)
    search.want()
    assert search.work(0.0)
    search.is_over = True
    assert not search.work(60.0)
    assert (len(taken), replies) == (1, [])
