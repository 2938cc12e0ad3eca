"""A log event as a line: text for people, coloured on a terminal, or one JSON object; as the journal reads it.

Rule: pure. What an event may contain is decided before (`server.observe.log_scrub`), where a line goes after.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

__all__ = ["as_json", "as_text", "for_journal", "is_journal"]

_LEVEL_WIDTH, _EVENT_WIDTH = 9, 30
_SPECIAL: Final = frozenset(" \t=\r\n\"'")  # a text with one of these is quoted
_RESET, _BRIGHT, _DIM, _KEY, _VALUE = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[35m"
_PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}  # sd-daemon(3)
_RED, _YELLOW, _GREEN = "\x1b[31m", "\x1b[33m", "\x1b[32m"
_COLOURS: Final = {"critical": _RED, "error": _RED, "warning": _YELLOW, "info": _GREEN, "debug": _GREEN}


def as_json(event: Mapping[str, Any]) -> str:
    """One JSON object; a value that JSON has no form for becomes its text."""
    return msgspec.json.encode(event, enc_hook=str).decode()


def for_journal(render: Callable[[Mapping[str, Any]], str], event: Mapping[str, Any]) -> str:
    """The line of `render` behind its priority, `<4>` for a warning, which the journal takes off (sd-daemon(3))."""
    return f"<{_PRIORITIES.get(event['level'], 6)}>{render(event)}"


def is_journal(descriptor: int, journal_stream: str) -> bool:
    """Whether a descriptor leads to the journal: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return journal_stream == f"{found.st_dev}:{found.st_ino}"


def as_text(event: Mapping[str, Any], *, colours: bool = False, stamped: bool = True) -> str:
    """`timestamp [level] event key=value ...`, in columns; `colours` for a terminal, not `stamped` where whoever keeps
    the line notes its time."""
    rest = dict(event)
    stamp, level, what = (str(rest.pop(key)) for key in ("timestamp", "level", "event"))
    columns = [(_DIM, stamp, "")] if stamped else []
    columns += [
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
