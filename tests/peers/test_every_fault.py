"""Every write, sync and rename of a command fails once, file by file: nothing is lost, and the command can go on.

strace counts the calls that an import, the making of an archive or a rotation of its keys makes on each file; then one
of them fails with EIO or ENOSPC. The suite takes some; COFFER_EVERY_FAULT=1 takes all (a quarter of an hour).
"""

import json
import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.clock import clock_ms
from coffer.keys.keyring import signing_key
from coffer.server.config.load import load_config
from coffer.server.engine.providers import open_keyring, provider_of
from tests.archive.conftest import append, entry
from tests.conftest import absent
from tests.peers.coffer_process import COFFER, CofferProcess
from tests.peers.dicom_client import split_part10
from tests.peers.test_flips import part10
from tests.server.filled import flip, run, told

EVERY = bool(os.environ.get("COFFER_EVERY_FAULT"))
CALLS = "write,writev,pwrite64,pwritev,fsync,fdatasync,msync,rename,ftruncate"
LINE = re.compile(r'\d+\s+(\w+)\((?:\d+<([^>]*)>|"([^"]*)")')
KINDS = {
    "segment": r"segments/\d+\.seg",
    "new segment": r"segments/\.\d+\.seg\.new",
    "history": r"checkpoints/history",
    "latest": r"checkpoints/\.latest\.new",
    "tiles": r"tiles/.*\.new",
    "keyring": r"keyring/data\.mdb",
    "index": r"index/data\.mdb",
    "folders": r"(segments|checkpoints|index|tiles.*)",
}
SETTINGS = """
[storage]
segment_bytes = 1_048_576
reserve_bytes = 0
[limits]
memory_object_bytes = 65_536
"""


def files(folder: Path, numbers: range) -> Path:
    """Part 10 files of three studies, every third one large and full of noise, so that segments fill up."""
    folder.mkdir()
    for number in numbers:
        content = part10(number, 3000, number % 3)
        if number % 3 == 0:
            noise = random.Random(number).randbytes(400_000)
            content += b"\x21\x00\x02\x10OB\0\0" + len(noise).to_bytes(4, "little") + noise
        (folder / f"{number}.dcm").write_bytes(content)
    return folder


@dataclass(frozen=True, slots=True)
class Ward:
    """A command, the archive and key file it begins with, and how often it makes each call on each of their files."""

    coffer: CofferProcess
    prepared: Path
    command: tuple[str, ...]
    counts: Counter[tuple[str, str]]

    def fresh(self) -> None:
        """Archive and key as they were before the command."""
        for part in (self.coffer.archive, self.coffer.key_file.parent):
            shutil.rmtree(part, ignore_errors=True)
            if (self.prepared / part.name).exists():
                shutil.copytree(self.prepared / part.name, part)

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """The command as a process of its own, under strace."""
        coffer = [str(COFFER), "--config", str(self.coffer.config), *self.command, "--json"]
        return subprocess.run(
            ["strace", "-f", "-qq", *options, *coffer],
            env=self.coffer.environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def again(self) -> dict[str, object]:
        """The same without a fault, in this process; it must work."""
        return told("--config", str(self.coffer.config), *self.command)

    def failing(self, call: str, path: str, number: int, error: str) -> tuple[str, subprocess.CompletedProcess[str]]:
        """The command from the beginning with one call that fails; what failed, and how it ended."""
        self.fresh()
        inject = f"inject={call}:error={error}:when={number}"
        done = self.run("-o", "/dev/null", "-P", str(self.coffer.base / path), "-e", inject)
        fault = f"{inject} on {path}"
        assert "Traceback" not in done.stderr, f"{fault}: {done.stderr}"
        assert done.returncode in (0, 6), f"{fault}: {done.stdout}{done.stderr}"
        assert done.returncode == 0 or '"remedy":' in done.stderr, fault
        return fault, done


def make_ward(coffer: CofferProcess, *command: str) -> Ward:
    """Keep what is there now, and count the command's calls."""
    prepared, trace, top = coffer.base / "prepared", coffer.base / "trace", f"{coffer.base}/"
    prepared.mkdir()
    for part in (coffer.archive, coffer.key_file.parent):
        if part.exists():
            shutil.copytree(part, prepared / part.name)
    ward = Ward(coffer, prepared, command, Counter())
    done = ward.run("-y", "-o", str(trace), "-e", f"trace={CALLS}")
    if not trace.exists():
        absent(f"strace cannot start a process here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    for line in trace.read_text().splitlines():
        if (found := LINE.match(line)) and (path := found[2] or found[3]).startswith(top):
            ward.counts[found[1], path.removeprefix(top)] += 1
    return ward


@pytest.fixture(scope="module")
def new_coffer_process(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], CofferProcess]:
    def make() -> CofferProcess:
        if shutil.which("strace") is None:
            absent("strace is not installed: apt install strace")
        coffer = CofferProcess(tmp_path_factory.mktemp("faults"))
        mark = f'[integrity]\nmark = "{coffer.key_file.parent}/mark"\n'  # put back with the keys
        coffer.write_config(SETTINGS + mark)
        return coffer

    return make


@pytest.fixture(scope="module")
def importing(new_coffer_process: Callable[[], CofferProcess]) -> Ward:
    coffer = new_coffer_process()
    coffer.init()
    coffer.run("put", str(files(coffer.base / "before", range(5))))
    return make_ward(coffer, "put", "--jobs", "1", str(files(coffer.base / "source", range(5, 14))))


def faults(ward: Ward, pattern: str) -> list[tuple[str, str, int, str]]:
    """Call, file, which of the calls, error: every one on the files that match, or one of them."""
    met = sorted(place for place in ward.counts if re.fullmatch(pattern, place[1]))
    assert met, f"the command makes no call on {pattern}"
    every = [
        (call, path, number, error)
        for call, path in met
        for number in range(1, ward.counts[call, path] + 1)
        for error in ("EIO", "ENOSPC")
    ]
    return every if EVERY else random.Random(pattern).sample(every, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_import_with_a_call_that_fails(importing: Ward, kind: str) -> None:
    for fault in faults(importing, f"archive/{KINDS[kind]}"):
        check_import(importing, *importing.failing(*fault))


def check_import(ward: Ward, fault: str, done: subprocess.CompletedProcess[str]) -> None:
    """All it called stored is there; it can be started again and then has all, bit for bit."""
    config, base = ("--config", str(ward.coffer.config)), ward.coffer.base
    first = json.loads(done.stdout) if done.stdout.strip() else {"stored": 0}
    again = ward.again()
    assert again["failed"] == 0, f"{fault}: {again}"
    assert int(str(again["duplicate"])) >= first["stored"], f"{fault}: {first} {again}"
    run(*config, "verify", "--level", "decrypt")
    out = base / "out"
    shutil.rmtree(out, ignore_errors=True)
    for study in range(3):
        run(*config, "get", "--study", f"1.2.826.0.1.3680043.8.498.77.{study}", "--out", str(out))
    came = {split_part10(path.read_bytes())[1] for path in out.rglob("*.dcm")}
    sent = {split_part10(path.read_bytes())[1] for part in ("before", "source") for path in (base / part).iterdir()}
    assert came == sent, f"{fault}: {len(came)} of {len(sent)} came back"


@pytest.mark.parametrize("kind", [r"keys/.*", r"archive/.*"])
def test_an_archive_that_cannot_be_made_is_made_by_the_same_command(
    new_coffer_process: Callable[[], CofferProcess], kind: str
) -> None:
    """No half archive stands in the way, and no key is made twice or lost."""
    ward = make_ward(new_coffer_process(), "init", "--yes-same-disk")
    source = files(ward.coffer.base / "source", range(1, 2))
    for fault in faults(ward, kind):
        what, done = ward.failing(*fault)
        if done.returncode and not (ward.coffer.archive / "archive.json").exists():
            assert ward.again()["archive"], what
        config = ("--config", str(ward.coffer.config))
        assert told(*config, "put", str(source))["stored"] == 1, what
        run(*config, "verify", "--level", "decrypt")


@pytest.mark.parametrize("kind", [r"keys/.*", r"archive/keyring/.*"])
def test_a_rotation_that_fails_opens_everything_and_goes_on(
    new_coffer_process: Callable[[], CofferProcess], kind: str
) -> None:
    coffer = new_coffer_process()
    coffer.init()
    coffer.run("put", str(files(coffer.base / "before", range(5))))
    ward = make_ward(coffer, "keys", "rotate")
    config = ("--config", str(coffer.config))
    for fault in faults(ward, kind):
        what, _ = ward.failing(*fault)
        run(*config, "verify", "--level", "decrypt")
        assert ward.again()["epoch"] in (2, 3), what
        run(*config, "verify", "--level", "decrypt")


def test_a_rebuild_of_the_index_that_fails_says_so_and_is_done_again(
    new_coffer_process: Callable[[], CofferProcess],
) -> None:
    coffer = new_coffer_process()
    coffer.init()
    coffer.run("put", str(files(coffer.base / "before", range(5))))
    ward = make_ward(coffer, "index", "rebuild")
    commits = ward.counts["fdatasync", path := "archive/index/data.mdb"]
    each = [("fdatasync", path, number, "ENOSPC") for number in range(1, commits + 1)]
    each = each if EVERY else random.Random(commits).sample(each, 1)
    for fault in (*each, *faults(ward, r"archive/index/data\.mdb")):
        what, _ = ward.failing(*fault)
        assert ward.again()["objects"] == 5, what
        run("--config", str(coffer.config), "verify", "--level", "decrypt")


@pytest.fixture(scope="module")
def torn(new_coffer_process: Callable[[], CofferProcess]) -> Ward:
    """An import into an archive whose last group came to the disk without its first record: opening cuts it."""
    coffer = new_coffer_process()
    coffer.init()
    coffer.run("put", str(files(coffer.base / "before", range(1, 3))))
    folder = ArchiveFolder.open(coffer.archive)
    with closing(LogReader(folder)) as reader:
        key_id = next(header.study_key_id for _, header in reader.records() if header.kind == Kind.OBJECT)
    keys = load_config(coffer.config).keys
    with closing(open_keyring(folder, provider_of(keys, folder.archive_id))) as keyring:
        sign = signing_key.current(keyring).sign_statement
    with closing(LogWriter(folder, sign=sign, now_ms=clock_ms)) as log:  # a study's key is older than its first object
        place, _ = append(log, [replace(entry(number, 700), study_key_id=key_id) for number in (1, 2)])
    flip(folder.segment_files.path(place.segment), place.offset + 400)
    return make_ward(coffer, "put", "--jobs", "1", str(files(coffer.base / "source", range(3, 6))))


@pytest.mark.parametrize("kind", [r"lost\+found.*", r"scrub.*", r"segments/\d+\.seg"])
def test_an_opening_that_cuts_a_torn_end_with_a_call_that_fails(torn: Ward, kind: str) -> None:
    for fault in faults(torn, f"archive/{kind}"):
        what, done = torn.failing(*fault)
        check_import(torn, what, done)
        shown = run("--config", str(torn.coffer.config), "scrub", "show", "--json", code=1).stdout
        found = [finding["what"] for finding in json.loads(shown)["findings"]]
        more = [each for each in found if "2 records was cut" not in each]
        assert len(found) == len(more) + 1, what
        # A write that fails behind the first record of a group leaves that one: the next opening cuts it, too.
        assert len(more) <= ("writev" in what), what
        assert all("1 record was cut" in each for each in more), what
