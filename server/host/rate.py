"""How often something may happen: token buckets by name, for a name and for all.

Rule: a bucket holds `BURST_SECONDS` of its rate, so that whoever comes rarely may come in a crowd. It remembers a
bounded number of names, the latest; one that is forgotten begins with a full bucket.
"""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["BURST_SECONDS", "Rates", "source_of"]

BURST_SECONDS: Final = 5.0
_MOST: Final = 4096


class Rates:
    """Token buckets of one rate. Thread-safe."""

    def __init__(
        self, per_second: float, clock: Callable[[], float] = time.monotonic, burst_seconds: float = BURST_SECONDS
    ) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second * burst_seconds)
        self._clock = clock
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def allows(self, name: str) -> bool:
        """Whether it may happen now; only then does it count."""
        with self._lock:
            left = self._tokens(name)
            is_due = left >= 1.0
            self._keep(name, left - is_due)
            return is_due

    def wait_seconds(self, name: str) -> float:
        """Count it, and return how long whoever causes it has to wait before the next one: 0 within the rate."""
        with self._lock:
            left = self._tokens(name) - 1.0
            self._keep(name, left)
            return max(0.0, -left / self._per_second)

    def _tokens(self, name: str) -> float:
        left, counted = self._left.pop(name, (self._burst, 0.0))
        return min(self._burst, left + (self._clock() - counted) * self._per_second)

    def _keep(self, name: str, left: float) -> None:
        self._left[name] = left, self._clock()
        if len(self._left) > _MOST:
            self._left.popitem(last=False)


def source_of(host: str) -> str:
    """What counts as one source: an address of IPv4, and in IPv6 a /64, of which one caller has all addresses."""
    try:
        address = ipaddress.ip_address(host.split("%", maxsplit=1)[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False))
