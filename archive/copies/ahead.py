"""Calls that wait for a target or a hash, a few at once, their results in order.

Rule: holds no more results than it has threads. Whatever one call raises ends it; the others are not begun.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

__all__ = ["ahead"]

T = TypeVar("T")
_THREADS: Final = 4


def ahead(call: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """The results of a call with each of these arguments, in their order. Raises what a call raises."""
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(_THREADS, "coffer-copies")
    try:
        for each in arguments:
            waiting.append(pool.submit(call, *each))
            if len(waiting) == _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
