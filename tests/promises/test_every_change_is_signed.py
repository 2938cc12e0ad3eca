"""Promise: what a command changes in the keyring is signed when the command ends, and the mark outside knows it.

Adversary: who writes the disk. Somebody who writes to the archive folder at any time, has every older copy of the
keyring, and no key; the mark lies outside of his reach. He puts `keyring/` back as it was right before the change.

Signed means: no event waits, the newest checkpoint covers the whole log, the keyring remembers that checkpoint, and the
mark names it and the keyring's generation. Crossed with: no server, a server beside, a full volume, a kill at every
durable step (the window until the next writer is in the threat model), and a certificate of erasure that
has to name shares that were split off before.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest

from coffer.archive.events.clocks import ClockDoubted
from coffer.archive.events.recorded import Occurrence
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import latest_note, read_checkpoint
from coffer.archive.tree.mark import Mark
from coffer.keys.buffer import Buffer
from coffer.keys.clock import Sighting, clock_ms
from coffer.keys.disk.syscalls import SystemCalls
from coffer.keys.mailbox import clock
from coffer.server.cli import main
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_writer
from tests.keyless import rows_of
from tests.server.filled import flip, part10, run, told
from tests.server.served import COFFER, serving
from tests.server.stopped import in_memory, stopped
from tests.server.three_studies import UIDS, configure, put, put_back, slices

SHARES = ("--share", "shares/1", "--share", "shares/2")
REASON = ("--reason", "r")
Words = tuple[str, ...]
WRITEV = SystemCalls.writev
DIED = 77
tmp_path = in_memory


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with two epochs, the second split, a hold, a request, and a shred; and a copy of how it began."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        configure("[keys]", "shred_hold_days = 0", "[integrity]", "mark = 'data.mark'")
        run("init")
        put(UIDS[0])
        shutil.copytree("data", "old")
        put(UIDS[1], UIDS[2])
        run("keys", "rotate")
        run("keys", "split", "-n", "2", "-k", "2", "-o", "shares")
        for number, path in enumerate(sorted(Path("shares").iterdir()), 1):
            path.rename(f"shares/{number}")
        run("hold", "add", UIDS[2], *REASON)
        run("shred", UIDS[1], "--yes", *REASON)
        require_signed()
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(made, tmp_path / "base")
    monkeypatch.chdir(tmp_path / "base")
    return tmp_path / "base"


def require_signed() -> None:
    """Nothing waits, and what is there is signed, remembered and marked."""
    rows, folder = rows_of(Path("data/keyring")), ArchiveFolder.open(Path("data"))
    assert not [key for key in rows if key[:1] in {b"P", b"O"}], "something waits in the keyring"
    reader = LogReader(folder)
    records = sum(1 for _ in reader.records())
    reader.close()
    assert read_checkpoint(folder).size == records
    assert rows[b"W"] == latest_note(folder)
    mark = Mark.parse(Path("data.mark").read_bytes())
    assert (mark.size, mark.keyring_generation) == (records, int.from_bytes(rows[b"C"], "big"))


def told_holds() -> list[str]:
    return [str(each["hold"]) for each in json.loads(run("hold", "list", "--json").stdout)]


def request_id() -> str:
    return str(told("shred", "request", UIDS[0], *REASON, "--officer", "Schmidt")["request"])


def shred_id() -> str:
    return re.findall("[0-9a-f]{32}", run("shred", "list").stdout)[0]


def group_id() -> str:
    return json.loads(run("keys", "list", "--json").stdout)["epochs"][-1]["shares"][0].split("group ")[1].split()[0]


def recovering() -> Words:
    """Lose the key file of an archive whose shares are new."""
    run("keys", "split", "-n", "2", "-k", "2", "-o", "newest")
    Path("data.key").rename("lost.key")
    return ("keys", "recover", *(word for path in Path("newest").iterdir() for word in ("--share", str(path))))


def file_to_put() -> str:
    Path("new.dcm").write_bytes(part10(next(iter(slices("1.2.9", "P-1")))))
    return "new.dcm"


def doubt() -> None:
    """Put the clock in doubt."""
    with open_writer(load_config(Path("coffer.toml"))) as archive:
        seen, now = Sighting(clock_ms(), clock_ms() - 3_600_000, None), clock_ms()
        event = Occurrence(ClockDoubted(wall_ms=now, expected_ms=now - 3_600_000, last_record_ms=None), now)
        assert clock.begin_doubt(archive.keyring, clock.read(archive.keyring), seen, archive.enclosed(event))


def roll_back() -> None:
    """Lose records that were signed; a copy has them."""
    shutil.copytree("data", "copy")
    for part in ("segments", "checkpoints"):
        shutil.rmtree(f"data/{part}")
        shutil.copytree(f"old/{part}", f"data/{part}")


def damage() -> None:
    shutil.copytree("data", "copy")
    flip(Path("data/segments/00000001.seg"), 600)


# By command, what it needs, and its words, in an order in which one archive can go through all of them.
BESIDE: dict[str, Callable[[], Words]] = {
    "hold add": lambda: ("hold", "add", UIDS[0], *REASON),
    "hold remove": lambda: ("hold", "remove", told_holds()[-1]),
    "keys copied": lambda: ("keys", "copied", "--to", "tape", "--until", "2099-12-31"),
    "shred request": lambda: ("shred", "request", UIDS[0], *REASON),
    "shred cancel": lambda: ("shred", "cancel", request_id()),
    "keys split": lambda: ("keys", "split", "-n", "3", "-k", "2", "-o", "more"),
    "keys drill": lambda: ("keys", "drill", *SHARES),
    "keys burn": lambda: ("keys", "burn", group_id(), "1", *REASON),
    "keys rekey": lambda: ("keys", "rekey", UIDS[0], "--yes", *REASON),
    "keys rotate": lambda: ("keys", "rotate"),
    "keys destroy": lambda: ("keys", "destroy", "1", "--yes"),
    "keys rotate-signing": lambda: ("keys", "rotate-signing", *REASON),
    "shred study": lambda: ("shred", UIDS[0], "--yes", *REASON),
    "shred finish": lambda: ("shred", "finish", "--destroy", "--early"),
    "keys recover": recovering,
    "shred certificate": lambda: ("shred", "certificate", shred_id(), "-o", "certificates"),
    "checkpoint sign": lambda: ("checkpoint", "sign"),
}


def confirmed() -> Words:
    doubt()
    return ("clock", "confirm", *REASON)


def approved() -> Words:
    return ("shred", "approve", request_id(), "--officer", "Meyer")


def recovered(*words: str) -> Words:
    roll_back()
    return ("recover", *words)


def lost() -> Words:
    roll_back()
    return ("recover", "accept-loss", "--to", str(told("recover", "show", code=1)["records"]))


ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name


def without_users() -> Words:
    run("users", "add", "anna", "--role", "admin", "--account", ACCOUNT)
    Path("users.toml").unlink()
    return ("users", "none", "--yes")


def repaired() -> Words:
    damage()
    return ("repair", "--from", "copy")


ALONE: dict[str, Callable[[], Words]] = {
    **BESIDE,
    "shred approve": approved,
    "clock confirm": confirmed,
    "put": lambda: ("put", file_to_put()),
    "mark renew": lambda: ("mark", "renew", *REASON),
    "index rebuild": lambda: ("index", "rebuild"),
    "recover from": lambda: recovered("from", "copy"),
    "recover accept-loss": lost,
    "repair": repaired,
    "users add": lambda: ("users", "add", "anna", "--role", "admin", "--account", ACCOUNT),
    "users none": without_users,
}
CHANGE_NO_KEYRING = {
    "get", "find", "versions", "verify", "doctor", "recover show", "mark show", "scrub show", "scrub acknowledge",
    "checkpoint show", "checkpoint prove-inclusion", "checkpoint prove-consistency", "checkpoint check", "status",
    "clock show", "keys audit", "keys export", "keys list", "keys copies", "shred list", "shred check", "hold list",
    "config check", "completion", "access explain", "reload", "tls check", "tls init",
    "backup run", "backup list", "backup verify", "backup prune", "backup drill", "restore",
    "backup recipient new", "backup recipient show",
    "users change", "users list", "users passwd", "users remove",  # a file beside the configuration
}  # fmt: skip
BEGIN_ONE = {"init", "serve", "demo"}  # the keyring that they make is the first; a server signs every minute


def leaves(command: click.Command, *path: str) -> list[str]:
    if isinstance(command, click.Group):
        return [leaf for name, one in command.commands.items() for leaf in leaves(one, *path, name)]
    return [" ".join(path)]


def test_no_command_is_left_out() -> None:
    assert {*ALONE, *CHANGE_NO_KEYRING, *BEGIN_ONE} == set(leaves(main))
    assert not CHANGE_NO_KEYRING & {*ALONE}


@pytest.mark.parametrize("command", ALONE)
def test_a_command_without_a_server_signs_what_it_changes(base: Path, command: str) -> None:
    words = ALONE[command]()
    run(*words)
    require_signed()


def test_a_command_beside_a_server_ends_when_the_server_has_signed(base: Path) -> None:
    with serving():
        for command, prepared in BESIDE.items():
            words = prepared()
            done = subprocess.run([COFFER, *words], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, (command, done.stderr)
            require_signed()


# Not signed


def no_space(fd: int, buffers: Sequence[Buffer]) -> int:
    """The volume of the segments is full."""
    if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".seg":
        raise OSError(28, "No space left on device")
    return WRITEV(fd, buffers)


@pytest.mark.parametrize("command", ["keys split", "keys burn", "hold add", "shred request", "keys rotate"])
def test_a_command_that_cannot_sign_says_so_and_the_next_one_completes_it(
    base: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ALONE[command]()
    with monkeypatch.context() as full:
        full.setattr(SystemCalls, "writev", staticmethod(no_space))
        done = run(*words, code=6)
    assert "the change is made and durable in the keyring, but it is not signed yet" in done.output
    assert "coffer checkpoint sign" in done.output
    assert [key for key in rows_of(Path("data/keyring")) if key[:1] == b"P"]
    run("checkpoint", "sign")
    require_signed()


@pytest.mark.parametrize("command", ["keys split", "keys burn", "hold add"])
def test_a_command_that_is_killed_anywhere_is_signed_by_the_next_writer(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    waited = 0
    for number in range(1, 200, 3):
        shutil.copytree(made, tmp_path / str(number))
        monkeypatch.chdir(tmp_path / str(number))
        code = stopped(number, *ALONE[command]())
        waited += any(key[:1] == b"P" for key in rows_of(Path("data/keyring")))
        run("checkpoint", "sign")
        require_signed()
        if code != DIED:
            break
    assert code == 0
    assert waited, "it was never killed between the change and its signature"


# Put back


@pytest.mark.parametrize("command", ["keys split", "keys burn", "keys rotate", "hold add", "keys drill"])
def test_a_keyring_from_right_before_a_change_is_refused(base: Path, command: str) -> None:
    shutil.copytree("data/keyring", "before")
    run(*ALONE[command]())
    put_back("before")
    assert "older than the log" in run("keys", "audit", code=1).output
    for words in (("put", file_to_put()), ("keys", "rotate"), ("keys", "split", "-n", "2", "-k", "2", "-o", "again")):
        assert "the keyring is older than the log" in run(*words, code=13).output
    assert not Path("again").exists()


@pytest.mark.parametrize("put_back_when", ["never", "before the shred"])
def test_a_certificate_names_shares_that_were_split_before(base: Path, put_back_when: str) -> None:
    """Whoever put the keyring back after a split got a certificate that did not name the shares."""
    shutil.copytree("data/keyring", "before")
    run("keys", "split", "-n", "3", "-k", "2", "-o", "more")
    group = group_id_of("more")
    if put_back_when != "never":
        shutil.copytree("data/keyring", "newest")
        put_back("before")
        for words in (
            ("shred", UIDS[0], "--yes", *REASON),
            ("shred", "finish", "--early"),
            ("shred", "certificate", shred_id(), "-o", "certificates"),
        ):
            assert run(*words, code=13).exit_code == 13
        assert not Path("certificates").exists()
        put_back("newest")
    run("shred", UIDS[0], "--yes", *REASON)
    run("shred", "finish", "--early")
    run("shred", "finish", "--early", "--destroy")
    key = shred_id()
    run("shred", "certificate", key, "-o", "certificates")
    (note,) = Path("certificates").iterdir()
    assert group in note.read_text()


def group_id_of(folder: str) -> str:
    text = min(Path(folder).iterdir()).read_text()
    found = re.search(r"[0-9a-f]{16}", text)
    assert found is not None
    return found.group()
