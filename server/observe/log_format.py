"""A log event as a line: text for people, coloured on a terminal, or one JSON object.

Rule: pure. What an event may contain is decided before (`server.observe.log_scrub`), where a line goes after.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

__all__ = ["as_json", "as_text"]

_LEVEL_WIDTH, _EVENT_WIDTH = 9, 30
_SPECIAL: Final = frozenset(" \t=\r\n\"'")  # a text with one of these is quoted
_RESET, _BRIGHT, _DIM, _KEY, _VALUE = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[35m"
_RED, _YELLOW, _GREEN = "\x1b[31m", "\x1b[33m", "\x1b[32m"
_COLOURS: Final = {"critical": _RED, "error": _RED, "warning": _YELLOW, "info": _GREEN, "debug": _GREEN}


def as_json(event: Mapping[str, Any]) -> str:
    """One JSON object; a value that JSON has no form for becomes its text."""
    return msgspec.json.encode(event, enc_hook=str).decode()


def as_text(event: Mapping[str, Any], *, colours: bool = False) -> str:
    """`timestamp [level] event key=value ...`, in columns; `colours` for a terminal."""
    rest = dict(event)
    stamp, level, what = (str(rest.pop(key)) for key in ("timestamp", "level", "event"))
    columns = [
        (_DIM, stamp, ""),
        (_COLOURS.get(level, "") + _BRIGHT, level.ljust(_LEVEL_WIDTH), "[]"),
        (_BRIGHT, what.ljust(_EVENT_WIDTH), ""),
    ]
    parts = [f"{around[:1]}{_painted(style, text, colours)}{around[1:]}" for style, text, around in columns]
    for key, value in rest.items():
        parts.append(f"{_painted(_KEY, key, colours)}={_painted(_VALUE, _quoted(value), colours)}")
    return " ".join(parts).rstrip(" ")


def _painted(style: str, text: str, colours: bool) -> str:
    return f"{style}{text}{_RESET}" if colours else text


def _quoted(value: object) -> str:
    return value if isinstance(value, str) and not _SPECIAL & set(value) else repr(value)
