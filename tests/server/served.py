"""The installed command, and a server of the archive in the current folder in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COFFER = Path(sys.executable).with_name("coffer")


@contextmanager
def serving() -> Iterator[subprocess.Popen[str]]:
    """A server of the archive, in a process of its own."""
    with Path("server.log").open("w", encoding="utf-8") as out:
        server = subprocess.Popen([COFFER, "serve"], stdout=out, stderr=out, text=True)
    try:
        deadline = time.monotonic() + 30
        while "serving" not in Path("server.log").read_text(encoding="utf-8"):
            assert time.monotonic() < deadline, Path("server.log").read_text(encoding="utf-8")
            assert server.poll() is None, Path("server.log").read_text(encoding="utf-8")
            time.sleep(0.05)
        yield server
    finally:
        server.terminate()
        assert server.wait(30) == 0, Path("server.log").read_text(encoding="utf-8")
