"""Promise: a keyring that is put back while it is open is noticed before anything is signed over it, or reported done.

Adversary: who writes the disk. Somebody who writes to the archive folder while Coffer works in it, has every older copy
of the keyring, no key, and whatever speed he needs: right after a commit, before anybody else looks. Not: who puts back
one bucket of rows in 256 and waits until two others were written over it between two looks (docs/threat-model.md).

Noticed means: the command ends with 13 and says so; a server says so to `/readyz`, `coffer status` and `coffer recover
show`, stores nothing and signs nothing until it is started again. Crossed with: no server, a server beside, a server
that signs alone; pages, rows and the whole file put back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coffer.keys.errors import HistoryError
from coffer.keys.store.keyring_store import Row
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.server.cli import main
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_writer
from tests.server.filled import free_port, run, told
from tests.server.served import serving
from tests.server.three_studies import UIDS, configure, put

KEYRING = Path("data/keyring")
FILES = ("data.mdb", "lock.mdb")
SAID = "was put back to an earlier state while it was open"
REPLACED = "was replaced or removed while it was in use"
HOW = ("pages", "rows", "file")
REASON = ("--reason", "r")
COMMANDS = {
    "hold add": ("hold", "add", UIDS[0], *REASON),
    "keys copied": ("keys", "copied", "--to", "tape", "--until", "2099-12-31"),
    "shred study": ("shred", UIDS[0], "--yes", *REASON),
    "shred request": ("shred", "request", UIDS[0], *REASON),
    "checkpoint sign": ("checkpoint", "sign"),
}
WRITE_ROWS = """
import sys, lmdb
with lmdb.open(sys.argv[1], readonly=True, lock=False) as then, then.begin() as txn:
    rows = [(bytes(key), bytes(value)) for key, value in txn.cursor()]
with lmdb.open(sys.argv[2], map_size=1 << 30) as env, env.begin(write=True) as txn:
    for key in [bytes(key) for key, _ in txn.cursor()]:
        txn.delete(key)
    for key, value in rows:
        txn.put(key, value)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        configure("[keys]", "shred_hold_days = 0", "[integrity]", "mark = 'data.mark'")
        run("init")
        put(*UIDS)
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an archive, which is the current folder; its server answers at `http://127.0.0.1:PORT`."""
    shutil.copytree(made, tmp_path / "base")
    monkeypatch.chdir(tmp_path / "base")
    text = Path("coffer.toml").read_text()
    Path("coffer.toml").write_text(text.replace("[http]\nenabled = false", f"[http]\nport = {free_port()}"))
    return tmp_path / "base"


def take(folder: Path) -> None:
    """Keep a copy of the keyring's files as they are. Another process makes it: one that has the keyring open would let
    go of LMDB's locks as it closes the lock file."""
    folder.mkdir(exist_ok=True)
    for name in FILES:
        subprocess.run(["cp", KEYRING / name, folder / name], check=True, timeout=60)


def put_back(folder: Path, how: str) -> None:
    """Write it over what is there: page by page in the same files; row by row, as a newest transaction; or as a file
    of its own under the same name."""
    if how == "pages":
        for name in FILES:
            over = [f"if={folder / name}", f"of={KEYRING / name}", "conv=notrunc", "status=none"]
            subprocess.run(["dd", *over], check=True, timeout=60)
    elif how == "rows":
        subprocess.run([sys.executable, "-c", WRITE_ROWS, str(folder), str(KEYRING)], check=True, timeout=60)
    else:
        shutil.copy(folder / "data.mdb", "replaced")
        Path("replaced").rename(KEYRING / "data.mdb")


def attacked(how: str, *args: str) -> tuple[int, str]:
    """One command in a process of its own, whose change of the keyring is put back right after its commit; its exit
    code, and what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            put_back_after_the_commit(how)
            done = CliRunner().invoke(main, args, env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""})
            os.write(writer, done.output.encode())
            code = done.exit_code
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as told_by_it:
        said = told_by_it.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def put_back_after_the_commit(how: str) -> None:
    """In this process, the first commit with an event or an order is undone by somebody else."""
    real, left = LmdbKeyringStore.put, [1]

    def put_and_lose(self: LmdbKeyringStore, changed: Sequence[Row], *others: Any, **named: Any) -> bool:
        if not left or not any(key[:1] in {b"P", b"O"} for key, _ in changed):
            return real(self, changed, *others, **named)
        left.clear()
        take(Path("then"))
        done = real(self, changed, *others, **named)
        put_back(Path("then"), how)
        return done

    LmdbKeyringStore.put = put_and_lose  # type: ignore[method-assign]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "checkpoint sign"])
def test_a_command_without_a_server(base: Path, command: str, how: str) -> None:
    code, said = attacked(how, *COMMANDS[command])
    require_told(code, said, how)
    run("checkpoint", "sign")  # nothing was signed that another opening contradicts
    run(*COMMANDS[command])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_beside_a_server(base: Path, command: str, how: str) -> None:
    with serving():
        code, said = attacked(how, *COMMANDS[command])
        require_told(code, said, how)


def require_told(code: int, said: str, how: str) -> None:
    """It did not end as if it had worked, and names what happened."""
    expected = (6, REPLACED) if how == "file" else (13, SAID)
    assert (code, expected[1] in said) == (expected[0], True), said


def readiness() -> tuple[int, str]:
    """What /readyz answers."""
    port = load_config(Path("coffer.toml")).http.port
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("how", HOW)
def test_the_whole_keyring_beneath_a_server(base: Path, how: str) -> None:
    with serving():
        assert readiness()[0] == 200
        take(Path("then"))
        run("hold", "add", UIDS[0], *REASON)
        signed = Path("data/checkpoints/latest").read_bytes()
        put_back(Path("then"), how)
        until = time.monotonic() + 10
        while readiness()[0] == 200 and time.monotonic() < until:
            time.sleep(0.5)
        code, why = readiness()
        assert (code, (REPLACED if how == "file" else SAID) in why) == (503, True), why
        if how != "file":  # which does not open while the lock file is of a newer state
            assert told("status")["refused"] is not None
        assert run("hold", "add", UIDS[1], *REASON, code=None).exit_code in {6, 13}
        assert told("recover", "show", code=1)["complaint"] is not None
    assert Path("data/checkpoints/latest").read_bytes() == signed
    assert "older than the log" in run("keys", "rotate", code=13).output


def test_what_a_server_saw_is_not_forgotten_when_it_is_put_right_again(base: Path) -> None:
    """What it read and decided in between is of rows that came and went."""
    with serving():
        take(Path("then"))
        run("hold", "add", UIDS[0], *REASON)
        take(Path("now"))
        put_back(Path("then"), "pages")
        until = time.monotonic() + 10
        while readiness()[0] == 200 and time.monotonic() < until:
            time.sleep(0.5)
        put_back(Path("now"), "pages")
        assert SAID in readiness()[1]
        assert SAID in str(told("recover", "show", code=1)["complaint"])
    run("checkpoint", "sign")
    assert told("recover", "show")["complaint"] is None


@pytest.mark.parametrize("how", ["pages", "rows"])
def test_a_writer_signs_nothing_over_it(base: Path, how: str) -> None:
    with open_writer(load_config(Path("coffer.toml"))) as archive:
        archive.sign_checkpoint()
        take(Path("then"))
        archive.keyring.new_study()
        archive.log.append([])
        signed = Path("data/checkpoints/latest").read_bytes()
        put_back(Path("then"), how)
        for act in (
            archive.sign_checkpoint,
            archive.reconcile,
            archive.keyring.begin_lineage,
            archive.keyring.new_study,
        ):
            with pytest.raises(HistoryError, match=SAID):
                act()
    assert Path("data/checkpoints/latest").read_bytes() == signed
