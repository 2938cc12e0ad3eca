"""Rotate the keys of many studies beside a server that stores: time, memory, and the effect on a sender.

A keyring with so many study keys is filled once and kept; the measurement uses a copy of its archive. A real server
serves it, and one association sends 50 objects of 8 KB per second, every tenth of a new study: for some seconds alone,
then as long as `coffer keys rotate` takes in a process of its own.

    python -m bench.rotating CONFIG      rotate, and count the calls of the provider
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bench.figures import percentile
from bench.fill import config_of
from bench.growth import copied, format_id
from bench.sender import Sender
from bench.served import Served
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.server.engine.create import create_archive

ROOT: Final = Path(__file__).resolve().parent.parent
_AT_ONCE: Final = 20_000
_SAMPLE_SECONDS: Final = 0.05
_APART_SECONDS: Final = 0.02


def filled(cache: Path, studies: int) -> tuple[Path, float]:
    """Return a folder with an archive of so many study keys, and the seconds of filling it now; 0 if it was kept."""
    folder = cache / f"keys-{studies}-{format_id()}"
    if folder.exists():
        return folder, 0.0
    making = folder.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    started = time.perf_counter()
    making.mkdir()
    config = config_of(making)
    create_archive(config)
    keyring = Keyring.open(config.archive / "keyring", KeyFileProvider(config.keys.key_file))
    for at in range(0, studies, _AT_ONCE):
        keyring.new_studies(min(_AT_ONCE, studies - at))
    keyring.close()
    making.rename(folder)
    return folder, time.perf_counter() - started


class _Rotation:
    """`coffer keys rotate` in a process of its own, watched by a thread."""

    def __init__(self, config: Path) -> None:
        self._started = time.perf_counter()
        command = [sys.executable, "-m", "bench.rotating", str(config)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        self.seconds = 0.0
        self.own_bytes = 0  # peak anonymous memory of the process: without the keyring's mapped pages
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self.seconds > 0

    def _watch(self) -> None:
        while self._process.poll() is None:
            self.own_bytes = max(self.own_bytes, _own_bytes(self._process.pid))
            time.sleep(_SAMPLE_SECONDS)
        self.seconds = time.perf_counter() - self._started

    def result(self) -> dict[str, Any]:
        """Return what it printed. Raises RuntimeError if it failed."""
        out, _ = self._process.communicate()
        self._thread.join()
        if self._process.returncode:
            raise RuntimeError(f"the rotation ended with {self._process.returncode}")
        printed: dict[str, Any] = json.loads(out.splitlines()[-1])
        return printed


def _own_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def rotating(cache: Path, work: Path, studies: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Fill, then yield one row: the rotation, and the waits of a sender for `seconds` alone and then beside it."""
    kept, took = filled(cache, studies)
    yield {"bench": "keys-fill", "studies": studies, "wall_s": round(took, 1), "cached": took == 0}
    folder = copied(kept, work)
    try:
        with Served(folder) as server:
            sender = Sender(server.port)
            sender.waits(_for(seconds / 2), apart=_APART_SECONDS)  # warms up
            alone = sender.waits(_for(seconds), apart=_APART_SECONDS)
            rotation = _Rotation(folder / "coffer.toml")
            beside = sender.waits(lambda: not rotation.is_over, apart=_APART_SECONDS)
            rotated = rotation.result()
            sender.close()
    finally:
        shutil.rmtree(folder)
    yield {
        "bench": "keys", "studies": studies, "seconds": round(rotation.seconds, 2), "moved": rotated["moved"],
        "per_second": round(rotated["moved"] / rotation.seconds),
        "made": rotated["calls"]["adopt_epoch"], "opened": rotated["calls"]["unwrap"],
        "rss_peak_mb": round(rotated["rss_peak_bytes"] / 1e6, 1), "own_peak_mb": round(rotation.own_bytes / 1e6, 1),
        **_waits("alone", alone), **_waits("beside", beside),
    }  # fmt: skip


def _for(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


def _waits(name: str, times: list[float]) -> dict[str, Any]:
    found = {"p50": statistics.median(times), "p99": percentile(times, 99), "max": max(times)}
    return {f"{name}_objects": len(times), **{f"{name}_{k}_ms": round(1e3 * value, 2) for k, value in found.items()}}


def main() -> None:
    """Run `coffer keys rotate --json`; add to its output the number of calls of the key file and the peak memory."""
    from click.testing import CliRunner

    from coffer.server.cli import main as coffer

    calls: Counter[str] = Counter()

    def counted(name: str) -> None:
        real = getattr(KeyFileProvider, name)

        def call(self: KeyFileProvider, *args: object) -> object:
            calls[name] += 1
            return real(self, *args)

        setattr(KeyFileProvider, name, call)

    for name in ("adopt_epoch", "unwrap", "destroy_epoch"):
        counted(name)
    result = CliRunner().invoke(coffer, ["--config", sys.argv[1], "keys", "rotate", "--json"])
    if result.exit_code:
        raise SystemExit(result.output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps({**json.loads(result.stdout), "calls": calls, "rss_peak_bytes": peak}))


if __name__ == "__main__":
    main()
