"""What ran out, and that work is not begun where it would be missing half-way."""

import contextlib
import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coffer.keys.errors import UnavailableError
from coffer.keys.threads import started_pool
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Keys, Storage
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.host import headroom
from coffer.server.host.headroom import Shortage
from coffer.server.main.demo import encoded, sample_study
from coffer.server.services.api import StoreRequest
from tests.server.filled import status
from tests.services import services

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this process so many descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # every number below is taken
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1 + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken:
            os.close(descriptor)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (OSError(errno.EMFILE, ""), headroom.DESCRIPTORS),
        (OSError(errno.ENFILE, ""), headroom.DESCRIPTORS),
        (BlockingIOError(errno.EAGAIN, ""), headroom.THREADS),
        (RuntimeError("can't start new thread"), headroom.THREADS),
        (OSError(errno.ENOMEM, ""), headroom.MEMORY),
        (MemoryError(), headroom.MEMORY),
        (OSError(errno.EIO, ""), ""),
        (RuntimeError("cannot schedule new futures after shutdown"), ""),
        (ValueError(), ""),
    ],
)
def test_what_ran_out(error: BaseException, what: str) -> None:
    assert headroom.what_ran_out(error) == what
    refusal = headroom.refusal_of(error)
    assert (refusal is not None) == bool(what)
    if refusal is not None:
        assert what in str(refusal)
        assert refusal.hint()


def test_a_shortage_is_over_when_it_is_over() -> None:
    shortage = Shortage()
    assert shortage.now() == ""
    with descriptors_left(headroom.SPARE - 2):
        assert headroom.lacks_descriptors()
        shortage.note(headroom.DESCRIPTORS)
        assert "LimitNOFILE" in shortage.reason()
        with pytest.raises(OSError), descriptors_left(0), Path(os.devnull).open():
            pass
    assert not headroom.lacks_descriptors()
    assert (shortage.now(), shortage.reason()) == ("", "")


def test_a_store_is_refused_before_the_log_would_stop_at_its_next_segment(tmp_path: Path) -> None:
    config = Config(
        archive=tmp_path / "archive",
        keys=Keys(key_file=tmp_path / "key"),
        storage=Storage(segment_bytes=1 << 20, reserve_bytes=0),
    )
    create_archive(config)
    with open_writer(config) as engine:

        def store(number: int) -> int:
            ds = sample_study()[0]
            ds.SOPInstanceUID += f".{number}"
            ds.PixelData = os.urandom(ds.Rows * ds.Columns * 2)
            reception = services(engine).ingest.begin(
                StoreRequest(CT, ds.SOPInstanceUID, EXPLICIT_LE, Principal.peer("TESTER"))
            )
            reception.write(encoded(ds))
            return status(reception.finish())

        assert store(0) == 0
        with descriptors_left(2):
            assert [store(number) for number in range(1, 20)] == [0xA700] * 19  # some of them would need a new segment
            with pytest.raises(UnavailableError, match="short of file descriptors"):
                services(engine).committer.require_accepting()
        assert [store(number) for number in range(1, 20)] == [0] * 19
        assert len(engine.folder.segment_files.numbers()) > 1


LIMITED = """
import resource, sys
from coffer.server.host import headroom
before = resource.getrlimit(resource.RLIMIT_NOFILE)
headroom.raise_limit(int(sys.argv[1]))
print(*before, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("hard", "wanted", "given"), [(400, 300, 300), (250, 300, 250), (400, 100, 200)])
def test_the_limit_is_raised_as_far_as_it_may_be(hard: int, wanted: int, given: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(wanted)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard)),
    )  # fmt: skip
    assert list(map(int, done.stdout.split())) == [200, hard, given, hard]


def test_a_pool_needs_no_thread_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = started_pool(3, "test")

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert list(pool.map(str, range(20))) == [str(n) for n in range(20)]
    with pytest.raises(RuntimeError):
        started_pool(3, "test")
    monkeypatch.undo()
    pool.shutdown()
    assert isinstance(pool, ThreadPoolExecutor)
