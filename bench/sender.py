"""A well-behaved peer that sends objects of 8 KB on one association, and how long each C-STORE takes."""

import struct
import time
from collections.abc import Callable
from typing import Final

from bench.scu import Client
from bench.studies import EXPLICIT_LE, HeaderOnly, header_only

_KINDS: Final = tuple(dict.fromkeys(header_only(n).sop_class for n in range(5)))
_CONTEXTS: Final = [(sop, EXPLICIT_LE) for sop in _KINDS]
_PADDING: Final = struct.pack("<HHHHI", 0x0009, 0x0010, 0x424F, 0, 7000) + bytes(7000)  # OB: about 8 KB in all


def _object(number: int) -> HeaderOnly:
    """Return an object of about 8 KB; every tenth begins a new study."""
    item = header_only(30_000_000 + number // 10, number % 10 + 1)
    at = item.data.index(struct.pack("<HH", 0x0010, 0x0010))
    return item._replace(data=item.data[:at] + _PADDING + item.data[at:])


class Sender:
    """One association that sends such objects: the well-behaved peer that is measured."""

    def __init__(self, port: int) -> None:
        self._client = Client(port, _CONTEXTS)
        self._next = 0

    def waits(self, go_on: Callable[[], bool], *, apart: float = 0.0) -> list[float]:
        """Send at least one object, and while `go_on` returns true; returns the seconds of each C-STORE.

        They start `apart` seconds after each other, or back to back.
        """
        times: list[float] = []
        due = time.perf_counter()
        while go_on() or not times:
            message = self._client.store_message(_object(self._next))
            self._next += 1
            time.sleep(max(0.0, due - time.perf_counter()))
            started = time.perf_counter()
            due = max(due, started) + apart
            assert self._client.send(message) == 0
            times.append(time.perf_counter() - started)
        return times

    def close(self) -> None:
        """Release the association."""
        self._client.close()
