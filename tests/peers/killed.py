"""A small archive that processes are killed over: living studies and shredded ones, and all that it says of itself.

Its functions run in the folder that is current, each in a process of its own (`tests.peers.killing`).
"""

import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import coffer.index.keyless_check
import coffer.keys.inspect.remembered
from coffer.keys.keyring import rotation
from coffer.server.cli import main
from coffer.server.engine import rekey
from coffer.server.maintenance import offline
from tests.keys import softhsm
from tests.peers.dicom_client import split_part10
from tests.peers.killing import done, folder_in_memory
from tests.peers.ward import require_strace
from tests.server.filled import free_port, part10, run, told
from tests.server.three_studies import slices

EVERY = bool(os.environ.get("COFFER_EVERY_KILL"))
SEED = int(os.environ.get("COFFER_KILL_SEED", random.SystemRandom().randrange(1 << 32)))
GONE_CODES = ("5", "9")  # exit codes that say so
LIVING, LARGE, BOTH, GONE = ("1.2.3.1", "1.2.3.2"), "1.2.3.2", ("1.2.3.3", "1.2.3.4"), "1.2.3.9"
STUDIES = (*LIVING, *BOTH, GONE)
LEAVING = "P-3"  # whose studies BOTH are
LARGE_BYTES = 160_000
MORE = "1.2.3.1.1.99"  # an object of the first study that comes later
CONFIG = """
archive = "archive"
[integrity]
mark = "mark"
[storage]
reserve_bytes = 0
[dimse]
host = "127.0.0.1"
port = {port}
processes = 1
[http]
enabled = false
[keys]
key_file = "keys/coffer.key"
shred_hold_days = 0
[keys.pkcs11]
module = "{module}"
token = "archive"
pin_file = "pin"
"""
NO_SHARES = -1
# The log's end, until somebody opens it to write: a group, in any state, whose last record has no tag yet.
TORN = re.compile(
    r"a record is cut|a record header is cut|\d+ records? from here on: neither a checkpoint nor a tag .*"
)
NOTHING = re.compile("(?!)")
REQUEST, SHARES = "<the request that waits>", "<the shares>"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the archive says of itself. `studies`: a digest of what came back, or the exit code; `signing`: which key
    signs, 0 while it changes; `left`: stale files."""

    opens: bool
    findings: list[str]
    studies: dict[str, str]
    epochs: list[tuple[str, str, int]]
    signing: int
    shreds: list[tuple[str, str]]
    requests: int
    holds: int
    groups: list[str]
    audit: list[str]
    left: list[str]
    unreadable: int
    drill: int


def small_steps() -> None:
    """Let little data take many steps: two keys a page, two objects a group, and a large object through a file."""
    rotation._PAGE, rekey._GROUP_OBJECTS, rekey._IN_MEMORY_BYTES = 2, 2, 65_536
    offline.read_remembered, offline.check_index = (
        coffer.keys.inspect.remembered._read,
        coffer.index.keyless_check._complaint,
    )  # this process may crash by itself


def command(*args: str) -> tuple[int, str]:
    """A command's exit code and output."""
    small_steps()
    result = CliRunner().invoke(main, args, env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""})
    return result.exit_code, result.output


def digests() -> dict[str, str]:
    """What is retrieved of each study, as one digest; the exit code for one of which nothing is."""
    command("get", *(word for uid in STUDIES for word in ("--study", uid)), "--out", "got")
    found: dict[str, str] = {}
    for uid in STUDIES:
        paths = sorted(path for path in Path("got", uid).rglob("*.dcm") if path.stem != MORE)
        parts = [(path.name, split_part10(path.read_bytes())[1]) for path in paths]
        found[uid] = sha256(repr(parts).encode()).hexdigest() if parts else str(command("get", "--study", uid)[0])
    shutil.rmtree("got", ignore_errors=True)
    return found


def shares() -> list[str]:
    """The shares that were made, as options."""
    return [word for path in sorted(Path("out").glob("*")) for word in ("--share", str(path))]


def unreadable() -> int:
    """How many studies the index has rows of and nobody has a key for."""
    code, output = command("status", "--json")
    return int(json.loads(output)["unreadable_studies"]) if code == 0 else 0


def look() -> Facts:
    """Everything; in a process of its own."""
    code, output = command("verify", "--level", "decrypt", "--json")
    found = json.loads(output)["findings"] if code in (0, 1) else [{"what": output}]
    shred_list: Any = told("shred", "list") if code in (0, 1) else {"shreds": [], "requests": []}
    keys_told: Any = told("keys", "list")
    epochs, signing = keys_told["epochs"], keys_told["signing_key"]
    return Facts(
        opens=code in (0, 1),
        findings=[str(each["what"]) for each in found],
        studies=digests(),
        epochs=[(e["provider"], e["state"], e["study_keys"]) for e in epochs],
        signing=0 if signing["changing"] else signing["generation"],
        shreds=[(each["why"], each["state"]) for each in shred_list["shreds"]],
        requests=len(shred_list["requests"]),
        holds=len(json.loads(run("hold", "list", "--json").stdout)) if code in (0, 1) else 0,
        groups=[group for e in epochs for group in e["shares"]],
        audit=json.loads(command("keys", "audit", "--json")[1])["findings"],
        left=sorted(str(path) for path in Path().rglob("*") if path.suffix in (".new", ".spool")),
        unreadable=unreadable(),
        drill=command("keys", "drill", *shares())[0] if Path("out").exists() else NO_SHARES,
    )


def store_one_more() -> None:
    """Store another object of a living study."""
    ds = next(slices(LIVING[0], "P-0"))
    ds.SOPInstanceUID, ds.Rows, ds.Columns, ds.PixelData = MORE, 4, 4, bytes(32)
    Path("more.dcm").write_bytes(part10(ds))
    assert told("put", "more.dcm")["failed"] == 0


def again(*args: str) -> tuple[int, str, Facts]:
    """The command once more, and a store after it: its exit code, what it said, and what the archive is like then."""
    code, output = command(*args)
    if code in (0, 5):
        store_one_more()
    return code, output, look()


def begin() -> None:
    """The archive that all begin with: two studies that stay, two of one patient that may go, one that is gone."""
    module = softhsm.make(Path("hsm").absolute()).module
    Path("pin").write_text(softhsm.PIN)
    Path("pin").chmod(0o600)
    Path("keys").mkdir(mode=0o700)
    Path("coffer.toml").write_text(CONFIG.format(module=module, port=free_port()))
    run("init")
    Path("in").mkdir()
    for number, uid in enumerate(STUDIES):
        for ds in slices(uid, LEAVING if uid in BOTH else f"P-{number}"):
            size = LARGE_BYTES if uid == LARGE and ds.InstanceNumber == 1 else 32
            ds.Rows, ds.Columns, ds.PixelData = size // 32, 16, random.Random(uid).randbytes(size)
            Path("in", f"{ds.SOPInstanceUID}.dcm").write_bytes(part10(ds))
    run("put", "in")
    run("shred", GONE, "--reason", "before", "--yes")
    shutil.rmtree("in")


def prepare(commands: list[tuple[str, ...]], then: tuple[str, ...]) -> tuple[str, ...]:
    """Run commands that must work (`mv` moves a file); return `then` with what only now has a name."""
    small_steps()
    for args in commands:
        if args[0] == "mv":
            Path(args[1]).rename(args[2])
        else:
            run(*args)
    found: list[str] = []
    for word in then:
        if word == REQUEST:
            found += [each["request"] for each in told("shred", "list")["requests"]]  # type: ignore[attr-defined]
        else:
            found += shares() if word == SHARES else [word]
    return tuple(found)


@dataclass(slots=True)
class Stage:
    """The folder in which everything happens, a copy of the archive that all begin with, and what its studies hold."""

    base: Path
    start: Path
    whole: dict[str, str] = field(default_factory=dict)

    def put_back(self, kept: Path) -> None:
        """Let a copy be what is there."""
        shutil.rmtree(self.base, ignore_errors=True)
        shutil.copytree(kept, self.base)

    def keep(self, name: str) -> Path:
        """A copy of what is there now."""
        kept = self.start.with_name(name)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.base, kept)
        return kept

    def check(
        self, facts: Facts, when: str, *, takes: Sequence[str], gone: Sequence[str], harmless: re.Pattern[str]
    ) -> None:
        """It opens, what lives comes back bit for bit, what is gone does not; `takes` are whole or gone."""
        assert facts.opens, f"{when}: {facts}"
        assert all(map(harmless.fullmatch, facts.findings)), f"{when}: {facts.findings}"
        for uid, came in facts.studies.items():
            lives, is_gone = came == self.whole[uid], came in GONE_CODES
            assert is_gone if uid in gone else lives or (uid in takes and is_gone), f"{when}: {uid}: {came}"


@contextmanager
def set_up(otherwise: Path) -> Iterator[Stage]:
    """Make the archive."""
    require_strace()
    softhsm.library()
    print(f"COFFER_KILL_SEED={SEED}")
    with folder_in_memory("kills", otherwise) as folder:
        stage = Stage(folder / "base", folder / "start")
        stage.base.mkdir()
        done(stage.base, begin)
        stage.keep("start")
        stage.whole = done(stage.base, look).studies
        assert sorted(map(len, stage.whole.values())) == [1, 64, 64, 64, 64], stage.whole
        yield stage
