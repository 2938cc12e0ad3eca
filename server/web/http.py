"""Health and metrics over HTTP: /healthz, /readyz and /metrics, for probes and Prometheus.

Rule: GET and HEAD only, no bodies, no parameters, one request for each connection, all of it within seconds; where too
many are open, one that has not asked anything yet goes first, so that nobody keeps these pages from others. They tell
counts and reasons, nothing of a patient. Readiness is decided by the function it is given: this door does not look into
the archive.
"""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

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
from coffer.server.config.settings import Http
from coffer.server.host.headroom import lacks_descriptors
from coffer.server.host.sockets import listen, named
from coffer.server.host.watched import Watched

__all__ = ["HttpServer", "application"]

R = TypeVar("R")
_CONNECTIONS: Final = 64
_CONNECTIONS_WHEN_SHORT: Final = 8  # of descriptors
_HEADER_BYTES: Final = 8 << 10
_REQUEST_SECONDS: Final = 5.0  # until the request is there
_CONNECTION_SECONDS: Final = 15.0  # until its answer is taken
_STOP_SECONDS: Final = 5
_PAGE_THREADS: Final = 2


def application(
    readiness: Callable[[], Sequence[str]],
    metrics: Callable[[], bytes],
    concerns: Callable[[], Sequence[str]] = tuple,
) -> Starlette:
    """The three pages. `readiness` returns why the server is not ready, nothing when it is; `concerns` what a human
    should look at although it serves. All may block shortly.

    Concerns do not make it unready: to take an archive with one damaged record out of service would protect nobody.
    """

    pool = started_pool(_PAGE_THREADS, "page")  # without threads to be had these pages must say so

    async def asked(question: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(pool, question)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(_: Request) -> Response:
        try:
            reasons, also = await asked(lambda: (list(readiness()), list(concerns())))
        except Exception as error:  # noqa: BLE001  # what cannot be told is no good news
            reasons, also = [f"the state cannot be told: {type(error).__name__}"], []
        told: dict[str, Any] = {"ready": not reasons, "reasons": reasons, "degraded": also}
        return JSONResponse(told, 503 if reasons else 200)

    async def exposition(_: Request) -> Response:
        return Response(await asked(metrics), media_type=CONTENT_TYPE_LATEST)

    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", exposition, methods=["GET"]),
    ]
    pages = Starlette(routes=routes, middleware=[Middleware(_Strict)])
    pages.router.redirect_slashes = False  # it would redirect to whatever host the caller names
    return pages


_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"connection", b"close"),
)


class _Strict:
    """Refuses request bodies before they are read, and adds the headers every answer has."""

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


class _ImpatientProtocol(H11Protocol):
    """One request, in time, and one answer, taken in time; uvicorn would wait for either for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self.loop.call_later(_REQUEST_SECONDS, self._cut_if_silent)
        self.loop.call_later(_CONNECTION_SECONDS, transport.abort)
        held = len(self.connections)
        if held > _CONNECTIONS or (held > _CONNECTIONS_WHEN_SHORT and lacks_descriptors()):
            self._make_room()

    @property
    def is_asking(self) -> bool:
        """Whether its request has not come whole yet."""
        return getattr(self, "cycle", None) is None

    def _cut_if_silent(self) -> None:
        if self.is_asking:
            self.transport.abort()

    def _make_room(self) -> None:
        """End another connection: of those that have asked nothing yet, one of the address that has most."""
        others = [each for each in self.connections if isinstance(each, _ImpatientProtocol) and each is not self]
        held = Counter(each.caller for each in others)
        others.sort(key=lambda each: (each.is_asking, held[each.caller]))
        if others:
            others[-1].transport.abort()

    @property
    def caller(self) -> str:
        """The address it comes from."""
        return named(str(self.client[0])) if self.client else ""


class HttpServer:
    """Serves `app` from a thread of its own, from `start` to `stop`."""

    def __init__(self, settings: Http, app: ASGIApp) -> None:
        self._settings = settings
        self._app = app
        self._server: uvicorn.Server | None = None
        self._socket: socket.socket | None = None
        self._stopping = threading.Event()
        self.watched = Watched("answering HTTP", self._serve, self._stopping)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port is the real one where the configured one was taken by the system."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Listen and serve. Raises ConfigError when the address cannot be had; the port is open on return."""
        settings = self._settings
        try:
            self._socket = listen(settings.host, settings.port, _CONNECTIONS)
        except OSError as error:
            raise ConfigError(
                f"cannot listen for HTTP on {settings.host} port {settings.port}: {error.strerror}",
                hint="give http.host and http.port an address that is free here, or set http.enabled = false",
            ) from error
        self.watched.start()

    def _serve(self) -> None:
        assert self._socket is not None
        options: dict[str, Any] = {"http": _ImpatientProtocol, "ws": "none", "lifespan": "off", "loop": "asyncio"}
        self._server = server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                log_config=None,
                log_level="error",
                access_log=False,
                backlog=_CONNECTIONS,
                server_header=False,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_graceful_shutdown=_STOP_SECONDS,
                **options,
            )
        )
        if not self._stopping.is_set():
            # uvicorn closes what it is given: were it to die, the port would be another's.
            with self._socket.dup() as its_own:
                server.run(sockets=[its_own])

    def stop(self) -> None:
        """Answer what is being asked, then close. Harmless when repeated or never started."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
        self.watched.join(2 * _STOP_SECONDS)
        if self._socket is not None:
            self._socket.close()
