"""A command in a process that dies at one of its durable steps."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from coffer.archive.log import LogWriter
from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.keys.disk.syscalls import SystemCalls
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.server.cli import main
from tests.peers.killing import folder_in_memory


@pytest.fixture
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a module says `tmp_path = stopped.in_memory`: syncs cost nothing there, and a process that ends loses
    nothing that it wrote."""
    with folder_in_memory("stopped", tmp_path_factory.getbasetemp()) as folder:
        yield folder


def stop_at(number: int) -> None:
    """Let this process die before or after its `number`th durable step."""
    left = [number]

    def stopping(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: object, **options: object) -> object:
            tick()
            done = real(*args, **options)
            tick()
            return done

        setattr(owner, name, staticmethod(call) if owner is SystemCalls else call)

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            os._exit(77)

    for owner, name in (
        (LmdbKeyringStore, "put"),
        (LmdbRowStore, "write"),
        (LogWriter, "append"),
        (SystemCalls, "rename"),
    ):
        stopping(owner, name)


def stopped(number: int, *args: str) -> int:
    """Run a command in a process that dies at a step; its exit code, 77 when it died."""
    child = os.fork()  # a fresh interpreter would cost a second each time
    if child == 0:
        code = 70
        try:
            stop_at(number)
            code = CliRunner().invoke(main, args, env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""}).exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
