"""A thread pool that starts all of its threads at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

__all__ = ["started_pool"]


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads all run already: work queued for a thread that the system refuses later is never
    done.

    Raises RuntimeError where the system refuses one of them.
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
