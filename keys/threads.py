"""A pool of threads that are all there from the start."""

import threading
from concurrent.futures import ThreadPoolExecutor

__all__ = ["started_pool"]


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool that never has to start a thread later: one that the system refuses then leaves work that nobody does.

    Raises RuntimeError where the system gives fewer.
    """
    pool, all_there = ThreadPoolExecutor(threads, name), threading.Event()
    try:
        for _ in range(threads):
            pool.submit(all_there.wait)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        all_there.set()
    return pool
