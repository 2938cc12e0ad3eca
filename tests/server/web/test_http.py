"""The HTTP door: three pages, GET and HEAD, no bodies, loopback, and a silent client does not stay."""

import contextlib
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from coffer.keys.errors import ConfigError
from coffer.server.access.certificate import PeerCertificate
from coffer.server.config.settings import Http
from coffer.server.identity.admission import Connected
from coffer.server.observe.metrics import Metrics
from coffer.server.web import http
from tests.server.filled import free_port

reasons: list[str] = []
concerns: list[str] = []


class Everybody:
    """Nobody is kept from the pages, as in the open role."""

    def may_monitor(self, authorization: str, by: Connected) -> bool | None:
        return True


@pytest.fixture
def app() -> object:
    """The application with readiness from `reasons`."""
    reasons.clear()
    concerns.clear()
    return http.application(lambda: reasons, Metrics().render, Everybody(), lambda: concerns)


@pytest.fixture
def running(app: object) -> Iterator[http.HttpServer]:
    """The server on a free port of the loopback."""
    server = http.HttpServer(Http(port=free_port()), app)  # type: ignore[arg-type]
    server.start()
    yield server
    server.stop()


class Counted(list[str]):
    """A server whose limits are counted here; whoever has a certificate is no stranger."""

    def serve(self, app: object, **settings: float) -> http.HttpServer:
        bounds = Http(port=free_port(), **settings)  # type: ignore[arg-type]
        server = http.HttpServer(bounds, app, lambda by: by.certificate is None, self.append)  # type: ignore[arg-type]
        server.start()
        return server

    def wait_for(self, limit: str, count: int = 1) -> None:
        deadline = time.monotonic() + 20
        while self.count(limit) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def closed(sock: socket.socket) -> bool:
    """Whether the server closes a connection without an answer."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(100) == b""
    return True


@contextlib.contextmanager
def crowd(server: http.HttpServer, *sources: str) -> Iterator[list[socket.socket]]:
    """Silent connections from these addresses, which the server has taken, in this order."""
    with contextlib.ExitStack() as stack:
        made = []
        for source in sources:
            sock = socket.create_connection(server.address, 20, (source, 0))
            stack.callback(sock.close)
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"GET /heal")
            made.append(sock)
            time.sleep(0.01)  # the order of connections is that of their acceptance
        yield made


def test_one_address_has_its_share_of_connections(app: object) -> None:
    counted = Counted()
    server = counted.serve(app, max_connections_per_address=2)
    with crowd(server, "127.0.0.9", "127.0.0.9", "127.0.0.9", "127.0.0.8") as (first, *others):
        assert closed(first)
        counted.wait_for("http-address")
        assert httpx.get(f"http://127.0.0.1:{server.address[1]}/healthz", timeout=30).status_code == 200
        for each in others:
            each.sendall(b"thz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert each.recv(12) == b"HTTP/1.1 200"
    assert counted == ["http-address"]
    server.stop()


def test_a_known_peer_makes_room_last_although_it_holds_most(app: object) -> None:
    counted = Counted()
    server = counted.serve(app, max_connections=4)
    assert httpx.get(f"http://127.0.0.1:{server.address[1]}/healthz", timeout=30).status_code == 200  # it has begun
    with contextlib.ExitStack() as stack, crowd(server, "127.0.0.8"):
        known = []
        for _ in range(2):
            ours, theirs = socket.socketpair()
            known.append(stack.enter_context(ours))
            ours.settimeout(20)
            server.admit(theirs, "10.0.0.7", PeerCertificate("CN=probe", "CN=CA", (), "ab" * 32, "1", 0, "cd" * 32))
        with crowd(server, *[f"127.0.1.{n}" for n in range(1, 6)]):
            counted.wait_for("http-connections", 4)
            for each in known:
                each.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                assert each.recv(12) == b"HTTP/1.1 200"
    server.stop()


def test_whoever_asks_too_often_is_told_so_and_others_are_served(app: object) -> None:
    counted = Counted()
    server = counted.serve(app, requests_per_second=1)
    transport = httpx.HTTPTransport(local_address="127.0.0.9")
    with httpx.Client(base_url=f"http://127.0.0.1:{server.address[1]}", timeout=30, transport=transport) as often:
        answers = [often.get("/metrics") for _ in range(8)]
        assert [answers[0].status_code, answers[-1].status_code] == [200, 429]
        assert answers[-1].headers["retry-after"] == "1"
        assert answers[-1].headers["connection"] == "close"
    assert httpx.get(f"http://127.0.0.1:{server.address[1]}/metrics", timeout=30).status_code == 200
    counted.wait_for("http-rate")
    server.stop()


@pytest.fixture
def client(running: http.HttpServer) -> Iterator[httpx.Client]:
    """A client of the running server."""
    with httpx.Client(base_url=f"http://127.0.0.1:{running.address[1]}", timeout=30) as one:
        yield one


def test_alive_even_when_not_ready(client: httpx.Client) -> None:
    reasons.append("starting")
    assert client.get("/healthz").json() == {"alive": True}


def test_ready_tells_its_reasons(client: httpx.Client) -> None:
    assert (client.get("/readyz").status_code, client.get("/readyz").json()["ready"]) == (200, True)
    reasons.append("the writer stopped")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reasons": ["the writer stopped"], "degraded": []}


def test_a_concern_is_told_and_does_not_take_it_out_of_service(client: httpx.Client) -> None:
    concerns.append("a finding waits")
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "reasons": [], "degraded": ["a finding waits"]}


def test_metrics_in_prometheus_format(client: httpx.Client) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "coffer_objects_stored_total 0.0" in answer.text


def test_only_get_and_head_without_a_body(client: httpx.Client) -> None:
    assert client.head("/readyz").status_code == 200
    assert client.head("/readyz").content == b""
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert client.request(method, "/metrics").status_code == 405
    assert client.request("GET", "/metrics", content=b"x").status_code == 413
    assert client.get("/").status_code == 404
    assert client.get("/metrics/../etc").status_code == 404
    assert client.get("/healthz").headers["cache-control"] == "no-store"


def test_over_a_socket(running: http.HttpServer) -> None:
    host, port = running.address
    assert host == "127.0.0.1"
    answer = httpx.get(f"http://{host}:{port}/metrics")
    assert answer.status_code == 200
    assert "server" not in answer.headers


def test_an_endless_header_is_cut_off(running: http.HttpServer) -> None:
    with socket.create_connection(running.address, timeout=30) as endless:
        endless.sendall(b"GET /healthz HTTP/1.1\r\nx: ")
        answer = b""
        try:
            for _ in range(1000):
                endless.sendall(b"y" * 10_000)
            answer = endless.recv(100)
        except ConnectionError:
            return
        assert answer.startswith(b"HTTP/1.1 400")


def test_a_silent_client_is_sent_away(app: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_REQUEST_SECONDS", 0.05)
    counted = Counted()
    server = counted.serve(app)
    with socket.create_connection(server.address) as silent:
        silent.sendall(b"GET /heal")
        silent.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(100) == b""
    counted.wait_for("http-request")
    server.stop()


def test_a_taken_port_is_a_config_error(running: http.HttpServer, app: object) -> None:
    with pytest.raises(ConfigError, match="cannot listen for HTTP on"):
        http.HttpServer(Http(port=running.address[1]), app).start()  # type: ignore[arg-type]


def test_stop_is_harmless_when_repeated(running: http.HttpServer) -> None:
    running.stop()
    running.stop()


def test_a_connection_answers_one_request(running: http.HttpServer) -> None:
    with socket.create_connection(running.address, timeout=30) as kept:
        kept.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /metr")
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # the second one was not read
            while piece := kept.recv(4096):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1


HALF = {
    "nothing": b"",
    "half a request": b"GET /heal",
    "half a second request": b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /heal",
    "a body that never comes": b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n",
    "a body in pieces": b"POST /metrics HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
}


@pytest.mark.parametrize("name", HALF)
def test_two_hundred_that_say_half_of_it_keep_the_pages_from_nobody(running: http.HttpServer, name: str) -> None:
    crowd = []
    for _ in range(200):
        # From another address than the reader's: what one address may ask in a second is limited.
        sock = socket.create_connection(running.address, timeout=30, source_address=("127.0.0.2", 0))
        with contextlib.suppress(ConnectionError):  # it may have to make room already
            sock.sendall(HALF[name])
        crowd.append(sock)
    for page in ("/healthz", "/readyz", "/metrics") * 3:
        assert httpx.get(f"http://127.0.0.1:{running.address[1]}{page}", timeout=30).status_code == 200
    for sock in crowd:
        sock.close()


def test_an_answer_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_CONNECTION_SECONDS", 0.3)
    counted = Counted()
    server = counted.serve(PlainTextResponse(bytes(32 << 20)))
    with socket.create_connection(server.address, timeout=30) as lazy:
        lazy.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        counted.wait_for("http-answer")
    server.stop()


def test_no_page_sends_the_caller_elsewhere(running: http.HttpServer) -> None:
    for page in ("/metrics/", "/healthz/", "//evil.example/metrics"):
        answer = httpx.get(f"http://127.0.0.1:{running.address[1]}{page}", headers={"host": "evil.example"})
        assert answer.status_code == 404
        assert "location" not in answer.headers


def test_a_state_that_cannot_be_told_is_no_good_news() -> None:
    def broken() -> list[str]:
        raise MemoryError

    server = http.HttpServer(Http(port=free_port()), http.application(broken, Metrics().render, Everybody()))
    server.start()
    answer = httpx.get(f"http://127.0.0.1:{server.address[1]}/readyz")
    assert (answer.status_code, answer.json()["reasons"]) == (503, ["the state cannot be determined: MemoryError"])
    assert httpx.get(f"http://127.0.0.1:{server.address[1]}/healthz").status_code == 200
    server.stop()


@pytest.mark.usefixtures("both_families")
def test_every_address_means_those_of_ipv4_too(app: object) -> None:
    server = http.HttpServer(Http(host="::", port=free_port()), app)  # type: ignore[arg-type]
    server.start()
    for host in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{host}:{server.address[1]}/healthz").status_code == 200
    server.stop()


def test_what_cannot_be_looked_at_hides_no_reason() -> None:
    def broken() -> list[str]:
        raise MemoryError

    pages = http.application(lambda: ["the keyring stopped"], Metrics().render, Everybody(), broken)
    server = http.HttpServer(Http(port=free_port()), pages)
    server.start()
    answer = httpx.get(f"http://127.0.0.1:{server.address[1]}/readyz")
    server.stop()
    told = ["the keyring stopped", "the state cannot be determined: MemoryError"]
    assert (answer.status_code, answer.json()["reasons"]) == (503, told)


def test_a_connection_whose_tls_has_ended_elsewhere_states_its_certificate() -> None:
    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        proved = scope["extensions"][http.CERTIFICATE]
        answer = {"subject": proved.subject, "client": scope["client"][0], "scheme": scope["scheme"]}
        await JSONResponse(answer)(scope, receive, send)

    server = http.HttpServer(Http(port=0, tls_port=1), told)
    server.start()
    try:
        with contextlib.ExitStack() as stack:
            body = b""
            while not body:  # until it has begun
                ours, theirs = socket.socketpair()
                stack.callback(ours.close)
                server.admit(theirs, "10.0.0.7", PeerCertificate("CN=probe", "CN=CA", (), "ab" * 32, "1", 0, "ef" * 32))
                ours.settimeout(30)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    ours.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    while more := ours.recv(1 << 16):
                        body += more
        assert body.endswith(b'{"subject":"CN=probe","client":"10.0.0.7","scheme":"https"}')
    finally:
        server.stop()
