"""Since when records wait for a signature, and how long they may.

Rule: only a signature that was made counts, whatever the reason is that there is none: an error, a signer that hangs,
or one that nobody runs. Times are of the machine's monotonic clock, which nobody sets.
"""

import threading
from collections.abc import Callable

from coffer.keys.errors import CofferError, UnavailableError

__all__ = ["Overdue"]


class Overdue:
    """The wait of one log's oldest unsigned record. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds of the monotonic clock."""
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None
        self._most: float | None = None
        self._why: CofferError | None = None

    def limit(self, seconds: float) -> None:
        """Let `require` raise once a record has waited so long."""
        self._most = seconds

    def appended(self) -> None:
        """Note that a record is there that no signature covers."""
        with self._lock:
            if self._since is None:
                self._since = self._clock()

    def begun(self) -> float:
        """A signature is about to be made over what is there now; returns the time."""
        return self._clock()

    def signed(self, begun: float, *, is_all: bool) -> None:
        """Note a signature that was begun then; `is_all`: nothing was appended since."""
        with self._lock:
            self._since, self._why = None if is_all else begun, None

    def failed(self, error: CofferError) -> None:
        """Note why no signature was made."""
        self._why = error

    def seconds(self) -> float:
        """How long the oldest record without a signature has waited; 0 if there is none."""
        with self._lock:
            return 0.0 if self._since is None else self._clock() - self._since

    def require(self) -> None:
        """Return unless a record has waited longer than it may. Raises UnavailableError."""
        waited, most, why = self.seconds(), self._most, self._why
        if most is None or waited <= most:
            return
        cause = "the signer does not come to an end" if why is None else str(why)
        raise UnavailableError(
            f"nothing is stored: records have waited {waited:.0f} s for a signed checkpoint, and may wait "
            f"{most:.0f} s: {cause}",
            hint=why.hint() if why is not None else "see the server's log; if nothing helps, start it again",
        )
