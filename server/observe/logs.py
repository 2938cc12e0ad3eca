"""Structured log lines on standard error, as text or JSON, in which no patient can be recognised.

Rule: code logs short ids (`short_id`), counts and AE titles, never values of a data set; what slips through is caught
here once more: UIDs in any text become short ids, bytes become their length, exceptions their type and place, and the
loggers of pydicom and pynetdicom, which print values, stay mute. It keeps no files and rotates nothing. Logging never
stops work: it neither raises nor waits, and what was lost is counted (`server.observe.log_sink`).
"""

import hmac
import logging
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any, Final, TextIO, cast

import msgspec
import structlog

from coffer.keys.memory.secret import Secret
from coffer.server.config.settings import Log
from coffer.server.observe.log_sink import LogSink

__all__ = ["configure", "drain", "is_losing", "is_verbose", "lost", "run_in_background", "short_id", "use_id_key"]

_MUTE: Final = ("pynetdicom", "pydicom", "py.warnings")
# At least five components tell a UID from an address; the arcs of the standard itself name no patient.
_UID = re.compile(r"(?<![\w.])(?!1\.2\.840\.10008\.)\d{1,39}(?:\.\d{1,39}){4,}(?![\w.]\w)")
_LONGEST = 500
_BRAKE_SECONDS: Final = 10.0
_BRAKE_LINES: Final = 20
_level = [logging.INFO]
_sink = [LogSink(None)]
_id_key = [Secret(os.urandom(32))]  # a key of this process until the archive's own is known


def use_id_key(key: Secret) -> None:
    """Make short ids with `key` from now on, so that they stay the same for an archive over restarts."""
    _id_key[0] = key


def short_id(uid: str) -> str:
    """Twelve hex digits that stand for a UID: the same for the same UID and key, useless without the key."""
    return hmac.digest(_id_key[0].reveal(), uid.encode("utf-8", "replace"), "sha256")[:6].hex()


def is_verbose() -> bool:
    """Whether debug lines are written: what they would say need not be made up otherwise."""
    return _level[0] <= logging.DEBUG


def configure(settings: Log, stream: TextIO | None = None, *, level: str | None = None) -> None:
    """Send the log lines of this process to `stream` (standard error); `level` goes before the configured one."""
    number: int = getattr(logging, (level or settings.level).upper())
    _level[0] = number
    sink = _sink_for(sys.stderr if stream is None else stream)
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        stamp,
        _outline_exception,
        _scrub,
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_json)
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sink.isatty(), sort_keys=False)
    )
    sink.tell_lost = partial(_line_of_lost, [structlog.processors.add_log_level, stamp, render])
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=_quiet(structlog.make_filtering_bound_logger(number), sink),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, sink)),
        cache_logger_on_first_use=False,
    )
    _adopt_standard_loggers(sink, [*shared, structlog.stdlib.ProcessorFormatter.remove_processors_meta, render], number)


def run_in_background() -> None:
    """Let a thread of its own write the lines from now on, and tell in them of faults that nobody caught.

    For processes that stay: a reader of the log who stops reading then holds up nothing.
    """
    _sink[0].start()
    threading.excepthook = lambda fault: _tell_uncaught(fault.exc_value)
    sys.unraisablehook = lambda fault: _tell_uncaught(fault.exc_value)
    sys.excepthook = lambda _, error, __: _tell_uncaught(error)


def drain() -> None:
    """Write the lines that wait, for a moment at most: before a process ends itself without its exit handlers."""
    _sink[0].drain()


def lost() -> int:
    """How many lines of this process could not be written."""
    return _sink[0].lost


def is_losing() -> bool:
    """Whether lines were lost and the log still cannot be written."""
    return _sink[0].is_losing


def _sink_for(stream: TextIO | None) -> LogSink:
    """The present sink where it writes to this stream already: its thread and its counts go on."""
    if _sink[0].stream is not stream:
        _sink[0] = LogSink(stream)
    return _sink[0]


def _quiet(kind: type[structlog.typing.FilteringBoundLogger], sink: LogSink) -> type[Any]:
    """A logger class whose calls lose a line rather than raise, whatever is wrong with the line."""

    class Quiet(kind):  # type: ignore[valid-type, misc]  # made by structlog for the level
        def _proxy_to_logger(self, *arguments: Any, **event: Any) -> Any:
            try:
                return super()._proxy_to_logger(*arguments, **event)
            except Exception:  # noqa: BLE001  # out of memory, say: no reason to stop what is being logged
                sink.lose()
                return None

    return Quiet


def _line_of_lost(processors: list[structlog.typing.Processor], count: int) -> str:
    event: Any = {"event": "log lines were lost", "lines": count, "way_out": "look at what reads or holds the log"}
    for process in processors:
        event = process(None, "warning", event)
    return str(event)


def _tell_uncaught(error: BaseException | None) -> None:
    """Python would print the message, which may quote a data set."""
    if error is not None and not isinstance(error, SystemExit):
        structlog.get_logger(__name__).error("a fault of ours that nobody caught", exc_info=error)


def _adopt_standard_loggers(sink: LogSink, processors: list[structlog.typing.Processor], level: int) -> None:
    """Let libraries that use `logging` speak through the same door, from warnings up, and mute those that may tell."""
    logging.raiseExceptions = False
    handler = logging.StreamHandler(cast(TextIO, sink))
    handler.addFilter(_Brake())
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=processors))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _MUTE:
        muted = logging.getLogger(name)
        muted.handlers[:] = [logging.NullHandler()]
        muted.propagate = False
        muted.setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(capture=True)
    warnings.filterwarnings("ignore", module="pydicom")


class _Brake(logging.Filter):
    """Lets through few lines of a library in a while: asyncio says a thousand times a second what it is short of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._began = 0.0
        self._told: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if self._clock() - self._began > _BRAKE_SECONDS:
            self._began = self._clock()
            self._told.clear()
        self._told[record.name] += 1
        return self._told[record.name] <= _BRAKE_LINES


def _json(value: Any, **_: Callable[[Any], Any]) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def _outline_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep an exception's type and where it was raised; its message may quote a data set."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        event["at"] = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(frames))
    return event


def _scrub(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key != "timestamp" and not key.startswith("_"):
            event[key] = _clean(value)
    return event


def _clean(value: Any) -> Any:
    """A value fit for a log: no UID, no raw bytes, no control characters that could forge a line, no endless text."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            text = _UID.sub(lambda m: f"id:{short_id(m[0])}", value[:_LONGEST])
            return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case list() | tuple() | set() | frozenset():
            return [_clean(one) for one in value]
        case _:
            return _clean(str(value))
