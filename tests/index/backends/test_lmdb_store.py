"""Rewriting the index file: nothing of what was removed is left in it, and readers that have it open keep reading."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.index.backends.row_store import Change
from coffer.keys.disk.syscalls import SystemCalls
from coffer.keys.errors import UnavailableError
from coffer.keys.memory.secret import Secret

ROOT = Path(__file__).resolve().parents[3]
READER = """
import sys
from pathlib import Path
from coffer.index.backends.lmdb_store import LmdbRowStore
store = LmdbRowStore(Path(sys.argv[1]), readonly=True)
for line in sys.stdin:
    print((store.get("study", line.strip().encode()) or b"nothing").decode(), flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbRowStore]:
    """A store of a thousand rows and tokens, and one that was removed."""
    made = LmdbRowStore(tmp_path / "index")
    made.authenticate(Secret(bytes(32)), os.urandom)
    rows: list[Change] = [("study", f"{n}".encode(), os.urandom(300)) for n in range(1000)]
    made.write(0, [*rows, *(("uid", f"u{n % 9}".encode(), f"{n}".encode()) for n in range(1000))])
    made.write(0, [("study", b"gone", b"REMOVED " * 40)])
    made.write(0, [("study", b"gone", None), ("study", b"kept", b"here")])
    yield made
    assert made.complaint() is None
    made.close()


class Reader:
    """Another process that has the index open."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, str(folder)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def get(self, key: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(key + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(10) == 0


def test_whoever_reads_reads_on_and_nothing_removed_is_left(store: LmdbRowStore, tmp_path: Path) -> None:
    file = tmp_path / "index" / "data.mdb"
    before = Reader(tmp_path / "index")
    assert before.get("kept") == "here"
    assert b"REMOVED" in file.read_bytes()
    for number in range(5):
        store.compact()
        assert b"REMOVED" not in file.read_bytes()
        store.write(0, [("study", b"round", b"%d" % number)])
    after = Reader(tmp_path / "index")
    assert (before.get("kept"), before.get("round")) == ("here", "nothing")
    assert after.get("round") == "4"
    store.write(0, [("study", b"round", b"5")])
    assert after.get("round") == "5"  # the writer and it share one lock
    assert (len(store.values(b"u1")), before.get("kept")) == (112 - 1, "here")
    before.close()
    after.close()


def test_a_reader_in_the_middle_is_waited_for(store: LmdbRowStore) -> None:
    compacted = threading.Thread(target=store.compact)
    with store._reading() as txn:
        compacted.start()
        compacted.join(0.5)
        assert compacted.is_alive()
        assert txn.get(b"kept", db=store._tables["study"]) == b"here"
    compacted.join()
    assert store.get("study", b"kept") == b"here"


def test_a_copy_that_cannot_be_written_changes_nothing(
    store: LmdbRowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int, _buffers: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SystemCalls, "writev", staticmethod(full))
    with pytest.raises(UnavailableError, match="No space"):
        store.compact()
    monkeypatch.undo()
    store.write(0, [("study", b"kept", b"still")])
    assert store.get("study", b"kept") == b"still"
    store.compact()
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["data.mdb", "lock.mdb"]


def _compact_and_die(folder: Path, step: int) -> None:
    """Compact in this process, which ends before or after its `step`th half of a rename."""
    left = [step]

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            os._exit(7)

    def rename(source: Path, target: Path) -> None:
        tick()
        source.rename(target)
        tick()

    SystemCalls.rename = staticmethod(rename)  # type: ignore[assignment]
    LmdbRowStore(folder).compact()


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_stop_leaves_one_whole_file_and_no_copy(store: LmdbRowStore, tmp_path: Path, step: int) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "data.mdb").write_bytes((tmp_path / "index" / "data.mdb").read_bytes())
    child = os.fork()
    if child == 0:
        try:
            _compact_and_die(folder, step)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    again = LmdbRowStore(folder)
    assert again.get("study", b"kept") == b"here"
    assert again.complaint() is None
    assert sorted(path.name for path in folder.iterdir()) == ["data.mdb", "lock.mdb"]
    again.close()
