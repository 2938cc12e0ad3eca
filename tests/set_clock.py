"""A clock that a test sets, for this process and for a `coffer` in a process of its own: both read the same file."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

from coffer.keys import clock

ROOT: Final = Path(__file__).resolve().parents[1]
DAY_MS: Final = 86_400_000


class SetClock:
    """The real clocks, moved by what the file says. The file may be changed while a process reads it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        if not file.exists():
            self._write({"wall": 0, "boot": 0, "starts": 0})

    def _read(self) -> dict[str, int]:
        return dict(json.loads(self._file.read_text(encoding="utf-8")))

    def _write(self, moved: dict[str, int]) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(moved), encoding="utf-8")
        new.rename(self._file)

    def jump(self, ms: int) -> None:
        """Set the wall clock: forwards, or backwards if negative."""
        moved = self._read()
        self._write(moved | {"wall": moved["wall"] + ms})

    def wait(self, ms: int) -> None:
        """Let time pass."""
        moved = self._read()
        self._write(moved | {"wall": moved["wall"] + ms, "boot": moved["boot"] + ms})

    def restart(self) -> None:
        """Start the machine again."""
        moved = self._read()
        self._write(moved | {"boot": moved["boot"] % 1000 - 10_000, "starts": moved["starts"] + 1})

    @property
    def now_ms(self) -> int:
        """What the wall clock shows."""
        return time.time_ns() // 1_000_000 + self._read()["wall"]

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Let this process read these clocks."""
        fake = SimpleNamespace(
            time_ns=lambda: time.time_ns() + self._read()["wall"] * 1_000_000,
            clock_gettime=lambda which: time.clock_gettime(which) + self._read()["boot"] / 1000,
            CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
        )
        patch.setattr(clock, "time", fake)
        patch.setattr(clock, "_boot", lambda: f"start {self._read()['starts']}")

    def program(self, path: Path) -> Path:
        """Write a `coffer` whose process reads these clocks; its workers read the real ones."""
        lines = (
            f"#!{sys.executable}",
            "import sys",
            f"sys.path.insert(0, {str(ROOT)!r})",
            "import pathlib, pytest",
            "from tests.set_clock import SetClock",
            f"SetClock(pathlib.Path({str(self._file)!r})).install(pytest.MonkeyPatch())",
            "from coffer.server.cli import main",
            "main()",
        )
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.chmod(0o700)
        return path
