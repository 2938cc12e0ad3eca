"""An event as functions of the keyring take it, where a test does not care what it says."""

from coffer.keys.values.waiting_event import UNIQUE, WaitingEvent


def left(body: bytes = b"event", unique: bytes = b"") -> WaitingEvent:
    """An event about no key; `unique` tells several apart (its first 8 bytes)."""
    return WaitingEvent(3, 1000, bytes(16), bytes(32), body, unique[:UNIQUE].ljust(UNIQUE, b"\0"))
