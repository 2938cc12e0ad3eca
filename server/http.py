"""Health and metrics over HTTP: /healthz, /readyz and /metrics, for probes and Prometheus.

Rule: GET and HEAD only, no bodies, no parameters, few and short connections; it tells counts and reasons, nothing of a
patient. Readiness is decided by the function it is given: this door does not look into the archive.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from keys.errors import ConfigError
from server.config import Http

__all__ = ["HttpServer", "application"]

_CONNECTIONS: Final = 64
_HEADER_BYTES: Final = 8 << 10
_FIRST_REQUEST_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 5


def application(
    readiness: Callable[[], Sequence[str]],
    metrics: Callable[[], bytes],
    concerns: Callable[[], Sequence[str]] = tuple,
) -> Starlette:
    """The three pages. `readiness` returns why the server is not ready, nothing when it is; `concerns` what a human
    should look at although it serves. All may block shortly.

    Concerns do not make it unready: to take an archive with one damaged record out of service would protect nobody.
    """

    def healthz(_: Request) -> Response:
        return JSONResponse({"alive": True})

    def readyz(_: Request) -> Response:
        reasons = list(readiness())
        told: dict[str, Any] = {"ready": not reasons, "reasons": reasons, "degraded": list(concerns())}
        return JSONResponse(told, 503 if reasons else 200)

    def exposition(_: Request) -> Response:
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", exposition, methods=["GET"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_Strict)])


class _Strict:
    """Refuses request bodies before they are read, and adds the headers every answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
            await send(message)

        headers = dict(scope.get("headers", ()))
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            refusal = JSONResponse({"error": "no request body is accepted here"}, 413, {"connection": "close"})
            await refusal(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


class _ImpatientProtocol(H11Protocol):
    """Closes a connection whose first request is not there in time; uvicorn would wait for it for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self.loop.call_later(_FIRST_REQUEST_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        transport: asyncio.Transport = self.transport
        if getattr(self, "cycle", None) is None and not transport.is_closing():
            transport.close()


class HttpServer:
    """Serves `app` from a thread of its own, from `start` to `stop`."""

    def __init__(self, settings: Http, app: ASGIApp) -> None:
        self._settings = settings
        self._app = app
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port is the real one where the configured one was taken by the system."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Listen and serve. Raises ConfigError when the address cannot be had; the port is open on return."""
        self._socket = _listen(self._settings.host, self._settings.port)
        options: dict[str, Any] = {"http": _ImpatientProtocol, "ws": "none", "lifespan": "off", "loop": "asyncio"}
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=_STOP_SECONDS,
                **options,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Answer what is being asked, then close. Harmless when repeated or never started."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(2 * _STOP_SECONDS)
        if self._socket is not None:
            self._socket.close()
        self._server = self._thread = None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except OSError as error:
        raise ConfigError(
            f"cannot listen for HTTP on {host} port {port}: {error.strerror}",
            hint="give http.host and http.port an address that is free here, or set http.enabled = false",
        ) from error
