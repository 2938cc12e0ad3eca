"""Write docs/architecture.md: the rooms with a sentence each, and the call paths of the main operations, from the code.

The rooms are the packages and the first sentences of their docstrings. The paths are traced: a server is started on an
archive of its own, an object is stored, found and retrieved, the keys are rotated and the study is erased. The page
lists the modules that each of these enters in each process, in the order of their first call.

    python -m bench.architecture           print it
    python -m bench.architecture --write   write docs/architecture.md
"""

import argparse
import ast
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.served import free_port
from coffer.server.config.load import load_config
from coffer.server.main.demo import Modality, sample_study

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "architecture.md"
FLOORS: Final = ("server", "index", "archive", "keys")
WAYS: Final = {
    "store": "C-STORE of one CT image, until it is acknowledged",
    "find": "C-FIND at STUDY level by Study Instance UID",
    "retrieve": "C-GET of the study",
    "rotate": "`coffer keys rotate` beside the server, until the server has recorded it",
    "erase": "`coffer shred study` beside the server, until the server has dropped the keys",
}
IDLE: Final = "idle"
_IDLE_SECONDS: Final = 6.0  # every job has had its turn by then
_SETTLE_SECONDS: Final = 3.0  # the server finishes every second what commands left
Ways = dict[str, dict[str, list[str]]]
_HEAD: Final = """# Architecture

<!-- written by `python -m bench.architecture --write`; tests/docs/test_architecture.py checks it against the code -->

Four floors, each importable without those above it. In each floor, a room imports only rooms below it: the contracts
in `pyproject.toml` list the order, and `make layers` checks it. A module's first sentence says what it knows.
"""
SEAMS: Final = (
    "keys.lease.epoch_authority.EpochAuthority",
    "keys.store.keyring_store.KeyringStore",
    "archive.store.source.Source",
    "archive.store.segment_store.SegmentStore",
    "archive.commit.commit_log.CommitLog",
    "archive.commit.commit_log.CommitLog",
    "index.backends.row_store.IndexRowStore",
    "server.services.api.Services",
)
_SEAMS_HEAD: Final = """## Seams

Where something else can take the place of a folder, a database or a process: a Protocol whose docstrings are the
contract, and one contract suite that every implementation passes, also through a wrapper that loses answers.
"""
_WAYS_HEAD: Final = """## Call paths

The modules that each process enters, in the order of their first call. The server process commits and does everything
that needs the writer; a worker is a process that serves associations.
"""


def rooms() -> Iterator[tuple[str, str, list[str]]]:
    """Yield every package with its first sentence and its modules: floors from the top, rooms by name."""
    for floor in FLOORS:
        for init in sorted((ROOT / floor).rglob("__init__.py")):
            docstring = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
            sentence = " ".join(docstring.split("\n\n")[0].split())
            modules = sorted(path.stem for path in init.parent.glob("*.py") if not path.stem.startswith("__"))
            yield ".".join(init.parent.relative_to(ROOT).parts), sentence, modules


def seams() -> Iterator[tuple[str, str, list[str]]]:
    """Yield every seam with the first sentence of its contract and the classes that implement it, by name."""
    classes = [
        (path, node)
        for floor in FLOORS
        for path in sorted((ROOT / floor).rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    for seam in SEAMS:
        module, _, name = seam.rpartition(".")
        ((_, contract),) = [each for each in classes if _module(each[0]) == module and each[1].name == name]
        sentence = (ast.get_docstring(contract) or "").split("\n\n")[0]
        made = [
            node.name for _, node in classes if name in [base.id for base in node.bases if isinstance(base, ast.Name)]
        ]
        yield seam, " ".join(sentence.split()), sorted(made)


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def seam_lines() -> list[str]:
    """Return what the page says of the seams, a line each."""
    return [
        f"- **`{seam}`**: {sentence} Implemented by {', '.join(f'`{each}`' for each in made) or 'nothing yet'}."
        for seam, sentence, made in seams()
    ]


class _TracedArchive:
    """An archive with a traced server."""

    def __init__(self, base: Path) -> None:
        self.notes, self.way = base / "notes", base / "way"
        self.notes.touch()
        self.way.write_bytes(b"\0")
        self.config = base / "coffer.toml"
        self.config.write_text(
            f'archive = "{base}/archive"\n[dimse]\nhost = "127.0.0.1"\nport = {free_port()}\nprocesses = 1\n'
            f'[http]\nenabled = false\n[keys]\nkey_file = "{base}/key"\nshred_hold_days = 0\n[log]\nlevel = "error"\n'
            "[storage]\nreserve_bytes = 0\nscrub_days = 0\n",
            encoding="utf-8",
        )

    def command(self, role: str, *arguments: str) -> list[str]:
        """Return a traced command line."""
        trace = [sys.executable, "-m", "bench.traced", str(self.notes), str(self.way), role, "command"]
        return [*trace, "--config", str(self.config), *arguments]

    def run(self, *arguments: str) -> str:
        """Run a command to its end and return its output. Raises CalledProcessError."""
        command = self.command("command", *arguments)
        return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout

    @contextmanager
    def tracing(self, name: str, seconds_after: float = 0.3) -> Iterator[None]:
        """Trace while the block runs, and for some seconds what it started."""
        self._set(1 + [*WAYS, IDLE].index(name))
        yield
        time.sleep(seconds_after)
        self._set(0)
        time.sleep(0.2)

    def _set(self, number: int) -> None:
        with self.way.open("r+b") as file:
            file.write(bytes([number]))

    @contextmanager
    def served(self) -> Iterator[None]:
        """Run the server: it listens on entry and has ended cleanly on exit."""
        process = subprocess.Popen(self.command("server", "serve"), cwd=ROOT)
        port = load_config(self.config).dimse.port
        try:
            while True:
                assert process.poll() is None, "the server ended"
                with socket.socket() as sock:
                    if sock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(60)


def trace(base: Path) -> Ways:
    """Run every operation once on an archive in `base`: path, role of the process, modules in order.

    Under IDLE stands what is entered while nobody asks for anything: it may also turn up in any of the others.
    """
    traced = _TracedArchive(base)
    traced.run("init", "--yes-same-disk")
    study = sample_study()
    uid = str(study[0].StudyInstanceUID)
    with traced.served():
        modality = Modality(load_config(traced.config))
        modality.store(study[:1])
        modality.find(uid)
        modality.get(uid)  # the first call loads modules that later calls find loaded
        with traced.tracing(IDLE, _IDLE_SECONDS):
            pass
        with traced.tracing("store"):
            modality.store(study[1:2])
        with traced.tracing("find"):
            modality.find(uid)
        with traced.tracing("retrieve"):
            modality.get(uid)
        with traced.tracing("rotate", _SETTLE_SECONDS):
            traced.run("keys", "rotate")
        with traced.tracing("erase", _SETTLE_SECONDS):
            traced.run("shred", "study", uid, "--reason", "docs", "--yes")
    ways: Ways = {name: {} for name in [*WAYS, IDLE]}
    for line in traced.notes.read_text(encoding="utf-8").splitlines():
        number, role, module = line.split()
        ways[[*WAYS, IDLE][int(number) - 1]].setdefault(role, []).append(module)
    return ways


def page(ways: Ways) -> str:
    """Return the whole document, ending in one newline."""
    parts = [_HEAD]
    for floor in FLOORS:
        parts.append(f"## `{floor}`\n\n| Room | What it knows | Modules |\n|---|---|---|")
        for name, sentence, modules in rooms():
            if name.split(".")[0] == floor:
                parts.append(f"| `{name}` | {sentence} | {', '.join(modules)} |")
        parts.append("")
    parts += [_SEAMS_HEAD, *seam_lines(), ""]
    parts.append(_WAYS_HEAD)
    for name, what in WAYS.items():
        parts.append(f"### {name}: {what}\n")
        roles = sorted(ways[name], key=["command", "worker", "server"].index)
        parts += [f"- **{role}**: " + " → ".join(f"`{module}`" for module in ways[name][role]) for role in roles]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/architecture.md instead of printing it")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as base:
        text = page(trace(Path(base)))
    if write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
