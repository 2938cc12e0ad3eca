"""Health and metrics over HTTP: /healthz, /readyz and /metrics, for probes and Prometheus.

Rule: GET and HEAD only, no bodies, no parameters, one request per connection, all of it within seconds. If too many
connections are open, one without a request is closed first, so that nobody can block these pages for others; who asks
too often is told so before anything is made. Whoever is not permitted to monitor learns that the server is alive and
whether it is ready, no more. The pages show counts and reasons, no patient data. The caller's function decides
readiness: this door does not look into the archive.
"""

import asyncio
import contextlib
import itertools
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any, ClassVar, Final, Protocol, TypeVar

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from coffer.keys.errors import ConfigError
from coffer.keys.threads import started_pool
from coffer.server.access.certificate import PeerCertificate
from coffer.server.config.settings import Http
from coffer.server.host.headroom import lacks_descriptors
from coffer.server.host.rate import Rates, source_of
from coffer.server.host.sockets import display_address, listen
from coffer.server.host.watched import Watched
from coffer.server.identity.admission import Connected
from coffer.server.observe.reached import Limit

__all__ = ["CERTIFICATE", "HttpServer", "application"]

R = TypeVar("R")
_BACKLOG: Final = 64
_CONNECTIONS_WHEN_SHORT: Final = 8  # of descriptors
_HEADER_BYTES: Final = 8 << 10
_REQUEST_SECONDS: Final = 5.0  # until the request is complete
_CONNECTION_SECONDS: Final = 15.0  # until the peer has taken the answer
_STOP_SECONDS: Final = 5
_PAGE_THREADS: Final = 2
_NUMBERS: Final = itertools.count(1)  # of connections, in the order of their beginning


class Monitors(Protocol):
    """Who may see reasons and metrics."""

    def may_monitor(self, authorization: str, by: Connected) -> bool | None:
        """Whether whoever sends this `Authorization` header over this connection may; None if nobody was proved."""


def application(
    readiness: Callable[[], Sequence[str]],
    metrics: Callable[[], bytes],
    monitors: Monitors,
    concerns: Callable[[], Sequence[str]] = tuple,
) -> Starlette:
    """The three pages. `readiness` returns why the server is not ready, nothing if it is; `concerns` what a human
    should look at although it serves. All may block briefly, `monitors` too.

    Concerns do not make it unready: taking an archive with one damaged record out of service would protect nobody.
    """

    pool = started_pool(_PAGE_THREADS, "page")  # started now: the pages must work when the system has no more threads

    async def in_pool(function: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(pool, function)

    async def may_monitor(request: Request) -> bool | None:
        authorization = request.headers.get("authorization", "")
        return await in_pool(partial(monitors.may_monitor, authorization, _connected(request)))

    async def healthz(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(request: Request) -> Response:
        reasons: list[str] = []
        degraded: list[str] = []
        for found, ask in ((reasons, readiness), (degraded, concerns)):  # one that fails hides nothing of the other
            try:
                found.extend(await in_pool(ask))
            except Exception as error:  # noqa: BLE001  # an unknown state counts as not ready
                reasons.append(f"the state cannot be determined: {type(error).__name__}")
        body: dict[str, Any] = {"ready": not reasons}
        if await may_monitor(request):
            body |= {"reasons": reasons, "degraded": degraded}
        return JSONResponse(body, 503 if reasons else 200)

    async def exposition(request: Request) -> Response:
        permitted = await may_monitor(request)
        if not permitted:
            is_unknown = permitted is None
            cause = "nobody was proved to be there" if is_unknown else "the role does not permit it"
            challenge = {"www-authenticate": "Bearer"} if is_unknown else None  # RFC 6750 3
            return JSONResponse({"error": cause}, 401 if is_unknown else 403, challenge)
        return Response(await in_pool(metrics), media_type=CONTENT_TYPE_LATEST)

    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", exposition, methods=["GET"]),
    ]
    pages = Starlette(routes=routes, middleware=[Middleware(_Strict)])
    pages.router.redirect_slashes = False  # the redirect would go to any host that the caller names
    return pages


CERTIFICATE: Final = "coffer.certificate"  # of a request's scope["extensions"]: the caller's PeerCertificate or None


def _connected(request: Request) -> Connected:
    """The connection of a request. What has TLS, or stays on this machine, is read by nobody on the way."""
    host = display_address(request.client.host) if request.client else ""
    try:
        is_loopback = ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    certificate = request.scope.get("extensions", {}).get(CERTIFICATE)
    return Connected(host, certificate, is_encrypted=is_loopback or request.scope["scheme"] == "https")


_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"connection", b"close"),
)


class _Paced:
    """Answers 429 (RFC 6585 4) to an address that asks too often, before anything is made for it."""

    def __init__(self, app: ASGIApp, bounds: "_Bounds") -> None:
        self._app = app
        self._bounds = bounds
        self._rates = Rates(bounds.settings.requests_per_second)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if self._rates.allows(source_of(display_address(client[0]) if client else "")):
            await self._app(scope, receive, send)
            return
        self._bounds.reached(Limit.HTTP_RATE)
        headers = {name.decode(): value.decode() for name, value in _HEADERS} | {"retry-after": "1"}
        await JSONResponse({"error": "too many requests"}, 429, headers)(scope, receive, send)


class _Strict:
    """Refuses request bodies before they are read, and adds the headers that every response has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += _HEADERS
            await send(message)

        headers = dict(scope.get("headers", ()))
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            refusal = JSONResponse({"error": "no request body is accepted here"}, 413)
            await refusal(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What bounds connections, who is a stranger, and whom to tell that a limit was reached."""

    settings: Http
    is_stranger: Callable[[Connected], bool]
    reached: Callable[[Limit], None]


@dataclass(frozen=True, slots=True)
class _Proved:
    """The caller of a connection whose TLS has ended elsewhere."""

    host: str
    certificate: PeerCertificate | None

    def stated_to(self, app: ASGIApp) -> ASGIApp:
        """The application, with the certificate in each request's scope, in the place of ASGI's TLS extension."""

        async def stating(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[CERTIFICATE] = self.certificate
            await app(scope, receive, send)

        return stating


class _ImpatientProtocol(H11Protocol):
    """One request and one response per connection, both with a deadline; uvicorn would wait forever for either."""

    bounds: ClassVar[_Bounds]
    is_over = False
    proved: _Proved | None = None  # what the connection has proved over TLS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self.number = next(_NUMBERS)
        if self.proved is not None:
            self.scheme, self.client = "https", (self.proved.host, 0)
            self.app = self.proved.stated_to(self.app)
        self.loop.call_later(_REQUEST_SECONDS, self._abort_if_silent)
        self.loop.call_later(_CONNECTION_SECONDS, self._abort_if_open)
        self.is_stranger = self.bounds.is_stranger(
            Connected(self.caller, self.proved.certificate if self.proved else None)
        )
        held = 1 + len(self._others())
        if self._is_one_too_many():
            return
        if held > self.bounds.settings.max_connections or (held > _CONNECTIONS_WHEN_SHORT and lacks_descriptors()):
            self._make_room()

    @property
    def is_silent(self) -> bool:
        """Whether its request is not complete yet."""
        return getattr(self, "cycle", None) is None

    def _abort_if_silent(self) -> None:
        if self.is_silent and not self.is_over:
            self.cut(Limit.HTTP_REQUEST)

    def _abort_if_open(self) -> None:
        if not self.is_over:  # it may be closing already, and wait for the peer to take what is left
            self.cut(Limit.HTTP_ANSWER)

    def cut(self, limit: Limit) -> None:
        """End it at once, at this limit."""
        self.bounds.reached(limit)
        self.is_over = True
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """As in asyncio.Protocol."""
        self.is_over = True
        super().connection_lost(exc)

    def _others(self) -> "list[_ImpatientProtocol]":
        """The other connections that are not over."""
        found = (each for each in self.connections if isinstance(each, _ImpatientProtocol) and each is not self)
        return [each for each in found if not each.is_over]

    def _is_one_too_many(self) -> bool:
        """Where its address has too many, abort the longest of them without a request, or this one, which is told."""
        own = [each for each in self._others() if each.caller == self.caller]
        if len(own) < self.bounds.settings.max_connections_per_address:
            return False
        victim = min((each for each in own if each.is_silent), key=lambda each: each.number, default=self)
        victim.cut(Limit.HTTP_ADDRESS)
        return victim is self

    def _make_room(self) -> None:
        """Abort another connection: a stranger's before a known peer's, of those one without a request, of the address
        that has most connections."""
        others = self._others()
        held = Counter(each.caller for each in others)
        others.sort(key=lambda each: (each.is_stranger, each.is_silent, held[each.caller]))
        if others:
            others[-1].cut(Limit.HTTP_CONNECTIONS)

    @property
    def caller(self) -> str:
        """The remote address, "" if unknown."""
        return display_address(str(self.client[0])) if self.client else ""


class HttpServer:
    """Serves `app` in a thread of its own, from `start` to `stop`."""

    def __init__(
        self,
        settings: Http,
        app: ASGIApp,
        is_stranger: Callable[[Connected], bool] = lambda _: False,
        reached: Callable[[Limit], None] = lambda _: None,
    ) -> None:
        """`is_stranger` says of a connection that nothing is known of who calls; `reached` counts a limit."""
        self._settings = settings
        bounds = _Bounds(settings, is_stranger, reached)
        self._app = _Paced(app, bounds)
        self._protocol = type("_Bounded", (_ImpatientProtocol,), {"bounds": bounds})
        self._server: uvicorn.Server | None = None
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self.watched = Watched("answering HTTP", self._serve, self._stopping)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and actual port, which the system chose if 0 is configured."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Listen, unless only TLS is spoken, and serve; the port is open on return. Raises ConfigError if the address
        is not available."""
        settings = self._settings
        if settings.port:
            self._listen()
        self.watched.start()

    def _listen(self) -> None:
        settings = self._settings
        try:
            self._socket = listen(settings.host, settings.port, _BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"cannot listen for HTTP on {settings.host} port {settings.port}: {error.strerror}",
                hint="give http.host and http.port an address that is free here, or set http.enabled = false",
            ) from error

    def admit(self, connection: socket.socket, host: str, certificate: PeerCertificate | None) -> None:
        """Serve a connection that carries the clear bytes of one with TLS; raises nothing. It has proved `certificate`,
        if it showed one. May be called by any thread."""
        server, loop = self._server, self._loop
        if server is None or loop is None or self._stopping.is_set():
            connection.close()
            return

        def protocol() -> _ImpatientProtocol:
            made: _ImpatientProtocol = self._protocol(server.config, server.server_state, server.lifespan.state)
            made.proved = _Proved(host, certificate)
            return made

        connection.setblocking(False)
        try:
            asyncio.run_coroutine_threadsafe(loop.connect_accepted_socket(protocol, connection), loop)
        except RuntimeError:  # the loop has just ended
            connection.close()

    def _serve(self) -> None:
        options: dict[str, Any] = {"http": self._protocol, "ws": "none", "lifespan": "off", "loop": "asyncio"}
        self._server = server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                log_config=None,
                log_level="error",
                access_log=False,
                backlog=_BACKLOG,
                server_header=False,
                proxy_headers=False,  # who calls is what the connection says, and not what a header claims
                h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_graceful_shutdown=_STOP_SECONDS,
                **options,
            )
        )
        if not self._stopping.is_set():
            asyncio.run(self._run(server))

    async def _run(self, server: uvicorn.Server) -> None:
        self._loop = asyncio.get_running_loop()
        # uvicorn closes its socket: if it died with the only one, another process could take the port.
        with contextlib.ExitStack() as duplicates:
            sockets = [] if self._socket is None else [duplicates.enter_context(self._socket.dup())]
            await server.serve(sockets=sockets)

    def stop(self) -> None:
        """Answer the requests that have arrived, then close. Harmless if repeated or never started."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
        self.watched.join(2 * _STOP_SECONDS)
        if self._socket is not None:
            self._socket.close()
