"""A small archive with a signer and its own clock, checked in full after every test that did not damage it."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest

from coffer.archive.format.entry import Entry, Position
from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint_history import begin
from coffer.archive.verify.verify import Finding, Options, Verifier, VerifyLevel
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.disk.syscalls import Syscalls, SystemCalls
from coffer.keys.memory.secret import Secret

ORIGIN = "archive.example/test"
FIRST_MS = 1767225600000
SIGNER = CheckpointSigner(Secret(bytes(range(32))))
VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def body_of(number: int, size: int = 40) -> bytes:
    """Bytes that look like ciphertext, the same at every run."""
    return b"".join(sha256(b"%d/%d" % (number, n)).digest() for n in range(size // 32 + 1))[:size]


def entry(number: int, size: int = 40) -> Entry:
    """The n-th entry of a test."""
    ids = sha256(b"id%d" % number).digest()
    return Entry(Kind.OBJECT, ids[:16], 0, ids, body_of(number, size))


def append(log: LogWriter, entries: Sequence[Entry]) -> list[Position]:
    """Append entries together; returns their positions."""
    return [position for position, _ in log.append(entries)]


class SmallArchive:
    """An archive folder, its signer, and writers that are closed with it."""

    def __init__(self, path: Path) -> None:
        self.signer = SIGNER
        ArchiveFolder.prepare(path)
        self.folder = ArchiveFolder(path, bytes(range(16)), ORIGIN, self.signer.vkey(ORIGIN))
        begin(self.folder, partial(self.signer.sign_note, ORIGIN))
        self.folder.commit()
        self.damaged = False
        self._writers: list[LogWriter] = []
        self._now = FIRST_MS

    def now_ms(self) -> int:
        """A clock that advances by a second per reading."""
        self._now += 1000
        return self._now

    def writer(
        self, *, segment_bytes: int = 1 << 30, reserve_bytes: int = 0, calls: Syscalls | None = None
    ) -> LogWriter:
        """Open the log for writing."""
        made = LogWriter(
            self.folder,
            sign=self.signer.sign_statement,
            now_ms=self.now_ms,
            segment_bytes=segment_bytes,
            reserve_bytes=reserve_bytes,
            calls=calls or SystemCalls(),
        )
        self._writers.append(made)
        return made

    def fill(self, count: int, *, first: int = 0, size: int = 40, segment_bytes: int = 1 << 30) -> list[Position]:
        """Append `count` entries one by one and close."""
        log = self.writer(segment_bytes=segment_bytes)
        done = [append(log, [entry(n, size)])[0] for n in range(first, first + count)]
        log.close()
        return done

    def sign(self, note: bytes) -> bytes:
        """What LogWriter.checkpoint signs with."""
        return self.signer.sign_note(ORIGIN, note)

    def checkpoint(self) -> None:
        """Open, sign, close."""
        log = self.writer()
        log.checkpoint(self.sign)
        log.close()

    def findings(self, *, bodies: bool = True) -> list[Finding]:
        """Everything a verification finds."""
        return list(Verifier(self.folder, Options(VerifyLevel.BODIES if bodies else VerifyLevel.HEADERS)).findings())

    def segments(self) -> list[Path]:
        """The segment files, in order."""
        return [self.folder.segment_files.path(n) for n in self.folder.segment_files.numbers()]

    def files(self) -> dict[str, bytes]:
        """Every file and its content, to show that nothing changed."""
        paths = sorted(p for p in self.folder.path.rglob("*") if p.is_file())
        return {str(p.relative_to(self.folder.path)): p.read_bytes() for p in paths}

    def close(self) -> None:
        """Close all writers; unless a test damaged it, nothing may be found."""
        for log in self._writers:
            log.close()
        if not self.damaged:
            assert self.findings() == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallArchive]:
    archive = SmallArchive(tmp_path / "archive")
    yield archive
    archive.close()


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes the volume has left, as statvfs tells it; to be changed by the test."""
    left = [1 << 40]

    class Volume:
        f_frsize = 1

        @property
        def f_bavail(self) -> int:
            return left[0]

    monkeypatch.setattr("os.statvfs", lambda path: Volume())
    return left


class FaultyCalls(SystemCalls):
    """Real calls that are recorded; the n-th one from now can fail before or after its effect."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.fail_at: int | None = None
        self.after_effect = False

    def arm(self, at: int, *, after_effect: bool) -> None:
        """Make the at-th call from now (0 = next) fail."""
        self.fail_at, self.after_effect = len(self.made) + at, after_effect

    def __getattribute__(self, name: str) -> object:
        value = object.__getattribute__(self, name)
        if name in {"made", "fail_at", "after_effect", "arm", "_call"} or name.startswith("__"):
            return value
        return lambda *args: object.__getattribute__(self, "_call")(name, value, args)

    def _call(self, name: str, real: Callable[..., object], args: Sequence[object]) -> object:
        fails = len(self.made) == self.fail_at and name != "close"
        self.made.append(name)
        if fails and not self.after_effect:
            raise OSError(5, "injected")
        result = real(*args)
        if fails:
            raise OSError(5, "injected")
        return result


@pytest.fixture
def faulty() -> FaultyCalls:
    return FaultyCalls()


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """Import a script of tests/vectors by file name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, VECTORS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load
