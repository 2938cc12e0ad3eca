"""The one name for "bytes that need not be copied".

Rule: functions that only read take a `Buffer`; functions that keep data take or make `bytes`.
(`collections.abc.Buffer` came with Python 3.12; the product runs on 3.11.)
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Buffer"]

Buffer: TypeAlias = bytes | bytearray | memoryview
