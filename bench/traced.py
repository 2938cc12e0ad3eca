"""One process of Coffer that records in which order modules are first entered: run by `bench.architecture`.

    python -m bench.traced NOTES WAY ROLE command|worker ARGUMENTS…

NOTES gets a line for each module that the current operation enters for the first time in this process; WAY is a file of
one byte, the number of the current operation, 0 for none.
"""

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLOORS: Final = ("keys", "archive", "index", "server")
_STARTS_WORKERS: Final = ["-I", "-m", "coffer.server.workers"]


def _module_of(file: str) -> str | None:
    """Return the dotted name below `coffer` of a source file of the product, else None."""
    inside = os.path.realpath(file).removeprefix(ROOT + os.sep).removesuffix(".py").split(os.sep)
    return ".".join(inside) if inside[0] in FLOORS and inside[-1] != "__init__" else None


def _profiler(notes: int, way: mmap.mmap, role: str) -> Callable[[FrameType, str, Any], None]:
    known: dict[str, str | None] = {}
    seen: set[tuple[int, str]] = set()

    def trace(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not (now := way[0]):
            return
        code = frame.f_code
        file = code.co_filename
        if file not in known:
            known[file] = _module_of(file)
        name = known[file]
        if name is None or (now, name) in seen or code.co_name == "<module>":
            return
        seen.add((now, name))
        os.write(notes, f"{now} {role} {name}\n".encode())

    return trace


class _Traced(subprocess.Popen[bytes]):
    """A process; a worker process is traced as well."""

    def __init__(self, args: Any, **more: Any) -> None:
        if isinstance(args, list) and args[1:4] == _STARTS_WORKERS:
            args = [args[0], "-m", "bench.traced", *sys.argv[1:3], "worker", "worker", *args[4:]]
            more["cwd"] = ROOT
        super().__init__(args, **more)


def main() -> None:
    """Run the command line and record the modules that it enters."""
    notes_path, way_path, role, kind, *arguments = sys.argv[1:]
    notes = os.open(notes_path, os.O_WRONLY | os.O_APPEND)
    with open(way_path, "rb") as file:
        trace = _profiler(notes, mmap.mmap(file.fileno(), 1, prot=mmap.PROT_READ), role)
    from coffer.server.cli import main as command
    from coffer.server.workers import worker

    subprocess.Popen = _Traced  # type: ignore[assignment,misc]
    threading.setprofile(trace)
    sys.setprofile(trace)
    if kind == "worker":
        sys.argv[1:] = arguments
        worker.main()
    else:
        command(arguments)


if __name__ == "__main__":
    main()
