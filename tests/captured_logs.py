"""What was logged, instead of writing it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coffer.server.observe import logs


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """While the block runs, a list of the events of every level: fields, `event` and `log_level`, unscrubbed."""
    told: list[dict[str, Any]] = []
    take, level = logs._take[0], logs._level[0]
    logs._take[0] = lambda log_level, event, fields: told.append({**fields, "event": event, "log_level": log_level})
    logs._level[0] = logging.DEBUG
    try:
        yield told
    finally:
        logs._take[0], logs._level[0] = take, level
