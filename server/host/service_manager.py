"""What the program that started this server is told: that it is ready, what it does, and that it still goes on.

Rule: sd_notify(3), a datagram for each message over the socket that NOTIFY_SOCKET names. Nobody depends on it: where
there is no such socket, or nobody reads it, nothing is told and nothing fails. It says what /readyz says, no more.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

__all__ = ["NOBODY", "ServiceManager"]

_SEND_SECONDS: Final = 1.0
_PINGS_PER_WATCH: Final = 3
_LONGEST_STATUS: Final = 400  # characters


class ServiceManager:
    """systemd, or whoever else listens at the socket. Used by one thread at a time, except `reloading` and `ready`."""

    def __init__(
        self, address: str = "", watch_seconds: float = 0.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`address` is a path, or a name in the abstract namespace behind an `@`; empty: nobody is told anything. A
        server that is silent for `watch_seconds` is started again; 0: it is not watched."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watch_seconds = watch_seconds
        self._clock = clock
        self._pinged = clock()
        self._status = ""
        self._socket: socket.socket | None = None
        if self._address[:1] in {"/", "\0"}:  # opened now: it must work when there are no more descriptors
            with suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.settimeout(_SEND_SECONDS)

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "ServiceManager":
        """The one that NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID name (sd_notify(3), sd_watchdog_enabled(3))."""
        is_watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        digits = environment.get("WATCHDOG_USEC", "") if is_watched else ""
        return cls(environment.get("NOTIFY_SOCKET", ""), int(digits) / 1e6 if digits.isdecimal() else 0.0)

    @property
    def listens(self) -> bool:
        """Whether there is somebody to tell."""
        return self._socket is not None

    def close(self) -> None:
        """Tell nothing more. Harmless when repeated."""
        if self._socket is not None:
            self._socket.close()

    def ready(self) -> None:
        """It serves, or has read its files again."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """It reads its files again; `ready` ends that."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It ends: requests under way are finished."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """What it does now, in a line for `systemctl status`; told only if it has changed."""
        line = " ".join(text.split())[:_LONGEST_STATUS]
        if line != self._status:
            self._status = line
            self._tell(f"STATUS={line}")

    def alive(self, silent_seconds: Callable[[], float]) -> None:
        """Tell several times per watch that the server goes on, unless a part of it has shown nothing for half a watch,
        by `silent_seconds`. Call it more often than that."""
        now = self._clock()
        if not self._watch_seconds or now - self._pinged < self._watch_seconds / _PINGS_PER_WATCH:
            return
        if silent_seconds() <= self._watch_seconds / 2:
            self._pinged = now
            self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if self._socket is not None:
            with suppress(OSError, ValueError):
                self._socket.sendto(message.encode("utf-8", "replace"), self._address)


NOBODY: Final = ServiceManager()
