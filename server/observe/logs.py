"""Structured log lines on standard error, as text or JSON, in which no patient can be recognised.

Rule: code logs short ids (`short_id`), counts and AE titles, never values of a data set; a second filter here catches
what slips through: UIDs in any text become short ids, bytes become their length, exceptions their type and location,
and the loggers of pydicom and pynetdicom, which print values, are silenced. It keeps no files and rotates nothing.
Logging never stops work: it neither raises nor waits, and lost lines are counted (`server.observe.log_sink`).
"""

import contextlib
import datetime as dt
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
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TextIO

from coffer.keys.crypto.hedge import first_key
from coffer.keys.memory.secret import Secret
from coffer.server.config.settings import Logging
from coffer.server.observe.log_format import as_json, as_text, for_journal, is_journal
from coffer.server.observe.log_sink import LogSink

__all__ = [
    "Logger", "configure", "drain", "get_logger", "is_losing", "is_verbose", "lost", "run_in_background", "short_id",
    "use_id_key",
]  # fmt: skip
Take = Callable[[str, str, dict[str, Any]], None]  # level, event, fields

_SILENCED: Final = ("pynetdicom", "pydicom", "py.warnings")
# Five components or more distinguish a UID from an IP address; the standard's own arcs identify no patient.
_UID = re.compile(r"(?<![\w.])(?!1\.2\.840\.10008\.)\d{1,39}(?:\.\d{1,39}){4,}(?![\w.]\w)")
_LONGEST = 500
_RATE_SECONDS: Final = 10.0
_RATE_LINES: Final = 20
_level = [logging.INFO]
_sink = [LogSink(None)]
_id_key = [first_key(os.urandom)]  # a key of this process until the archive's own is known


def use_id_key(key: Secret) -> None:
    """Make short ids with `key` from now on, so that an archive's ids stay the same after a restart."""
    _id_key[0] = key


def short_id(uid: str) -> str:
    """Twelve hex digits that stand for a UID: equal for equal UID and key, meaningless without the key."""
    return hmac.digest(_id_key[0].reveal(), uid.encode("utf-8", "replace"), "sha256")[:6].hex()


def is_verbose() -> bool:
    """Whether debug lines are written; otherwise their content need not be computed."""
    return _level[0] <= logging.DEBUG


def configure(settings: Logging, stream: TextIO | None = None, *, level: str | None = None) -> None:
    """Send the log lines of this process to `stream` (default: standard error); `level` overrides the configured
    one."""
    number: int = getattr(logging, (level or settings.level).upper())
    _level[0] = number
    sink = _sink_for(sys.stderr if stream is None else stream)
    to_journal = is_journal(sink.fileno(), os.environ.get("JOURNAL_STREAM", ""))
    render: Callable[[Mapping[str, Any]], str] = as_json
    if settings.format != "json":
        render = partial(as_text, colours=sink.isatty(), stamped=not to_journal)
    if to_journal:
        render = partial(for_journal, render)
    sink.format_lost = partial(_line_of_lost, render)
    _take[0] = take = partial(_write, render, sink)
    _adopt_standard_loggers(take, number)


def run_in_background() -> None:
    """Write log lines in a thread of their own from now on, and log uncaught exceptions.

    For long-running processes: a log reader that stops reading then blocks nothing.
    """
    _sink[0].start()
    threading.excepthook = lambda fault: _log_uncaught(fault.exc_value)
    sys.unraisablehook = lambda fault: _log_uncaught(fault.exc_value)
    sys.excepthook = lambda _, error, __: _log_uncaught(error)


def drain() -> None:
    """Write the waiting lines, for a moment at most: before a process ends without running its exit handlers."""
    _sink[0].drain()


def lost() -> int:
    """How many lines of this process could not be written."""
    return _sink[0].lost


def is_losing() -> bool:
    """Whether lines were lost and the log still cannot be written."""
    return _sink[0].is_losing


def _sink_for(stream: TextIO | None) -> LogSink:
    """The present sink if it writes to this stream already, with its thread and counts; otherwise a new one."""
    if _sink[0].stream is not stream:
        _sink[0] = LogSink(stream)
    return _sink[0]


def _write(
    render: Callable[[Mapping[str, Any]], str], sink: LogSink, level: str, event: str, fields: dict[str, Any]
) -> None:
    """Write one line, or lose it rather than raise an exception."""
    try:
        sink.write(render(_scrubbed(_outlined(_stamped(level, {**fields, "event": event})))) + "\n")
        sink.flush()
    except Exception:  # noqa: BLE001  # for example out of memory: no reason to stop the work that logs
        sink.lose()


def _write_unconfigured(level: str, event: str, fields: dict[str, Any]) -> None:
    """Before `configure`, as in a program that uses only a part of Coffer: text on standard error."""
    _write(as_text, LogSink(sys.stderr), level, event, fields)


_take: list[Take] = [_write_unconfigured]


class Logger:
    """Logs an event, a constant sentence, with the `name` that docs/log-events.md lists and other fields. No method
    raises, and none waits for whoever reads the log."""

    __slots__ = ()

    def debug(self, event: str, /, **fields: Any) -> None:
        """For developers: a step of the protocol."""
        if _level[0] <= logging.DEBUG:
            _take[0]("debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """What happens as it should."""
        if _level[0] <= logging.INFO:
            _take[0]("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """What somebody may have to look at."""
        if _level[0] <= logging.WARNING:
            _take[0]("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """What somebody has to look at. `exc_info`: the exception, or True for the one that is being handled."""
        if _level[0] <= logging.ERROR:
            _take[0]("error", event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """An error, with the exception that is being handled."""
        self.error(event, **{"exc_info": True, **fields})

    def critical(self, event: str, /, **fields: Any) -> None:
        """What ends the service."""
        _take[0]("critical", event, fields)


_logger: Final = Logger()


def get_logger() -> Logger:
    """The logger. Where its lines go is decided by `configure`, before or after."""
    return _logger


def _stamped(level: str, event: dict[str, Any]) -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    return {**event, "level": level, "timestamp": now.isoformat() + "Z"}


def _line_of_lost(render: Callable[[Mapping[str, Any]], str], count: int) -> str:
    event = {
        "event": "log lines were lost",
        "name": "log.lines_lost",
        "lines": count,
        "remedy": "check the process or the volume that takes the log",
    }
    return render(_stamped("warning", event))


def _log_uncaught(error: BaseException | None) -> None:
    """Log without the message, which may quote a data set; Python would print it."""
    if error is not None and not isinstance(error, SystemExit):
        _logger.error("uncaught internal error", name="exception.uncaught", exc_info=error)


class _Adopted(logging.Handler):
    """Passes on what libraries log."""

    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a library's mistake in its own message
            fields = {"exc_info": record.exc_info} if record.exc_info else {}
            self._take(record.levelname.lower(), record.getMessage(), fields)


def _adopt_standard_loggers(take: Take, level: int) -> None:
    """Send what libraries log to the same sink, from warnings up, and silence those that may print values."""
    logging.raiseExceptions = False
    handler = _Adopted(take)
    handler.addFilter(_RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _SILENCED:
        muted = logging.getLogger(name)
        muted.handlers[:] = [logging.NullHandler()]
        muted.propagate = False
        muted.setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(capture=True)
    warnings.filterwarnings("ignore", module="pydicom")


class _RateLimit(logging.Filter):
    """Passes a few lines of each library per interval: asyncio reports a shortage a thousand times a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._began = 0.0
        self._passed: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if self._clock() - self._began > _RATE_SECONDS:
            self._began = self._clock()
            self._passed.clear()
        self._passed[record.name] += 1
        return self._passed[record.name] <= _RATE_LINES


def _outlined(event: dict[str, Any]) -> dict[str, Any]:
    """Keep an exception's type and where it was raised, not its message, which may quote a data set."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        event["at"] = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(frames))
    return event


def _scrubbed(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value if key == "timestamp" else _clean(value) for key, value in event.items()}


def _clean(value: Any) -> Any:
    """A value that is safe to log: no UID, no raw bytes, no control characters that could forge a line, bounded."""
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
