"""Commands beside a server that does not go on, and one that dies while it is waited for."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from coffer.keys.keyring import rows
from coffer.keys.mailbox import orders
from coffer.keys.store.keyring_store import scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from tests.peers.coffer_process import COFFER, CofferProcess
from tests.peers.ward import Ward, objects


def _started(coffer: CofferProcess, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(COFFER), "--config", str(coffer.config), *args], cwd=coffer.base, env=coffer.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _wait_for_order(coffer: CofferProcess, command: subprocess.Popen[str], prefix: bytes) -> None:
    """Return when the command has said in the keyring what it waits for."""
    store = LmdbKeyringStore(coffer.archive / "keyring", readonly=True)
    try:
        while not scan(store, prefix):
            assert command.poll() is None, command.communicate()
            time.sleep(0.02)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("args", "prefix"),
    [
        (("checkpoint", "sign"), orders.PREFIX),
        (("keys", "rekey", "1.2.3.1", "--reason", "test", "--yes"), rows.REKEY_PREFIX),
    ],
)
def test_a_command_whose_server_dies_does_the_work_itself(
    new_coffer: Callable[..., CofferProcess], args: tuple[str, ...], prefix: bytes
) -> None:
    ward = Ward(new_coffer())
    ward.store(objects(1))
    ward.coffer.run("checkpoint", "sign")  # the server's index has it all
    assert ward.coffer.process is not None
    ward.store(objects(2))
    ward.coffer.run("find")
    os.kill(ward.coffer.process.pid, signal.SIGSTOP)
    command = _started(ward.coffer, *args)
    _wait_for_order(ward.coffer, command, prefix)
    ward.coffer.kill()
    out, err = command.communicate(timeout=60)
    assert command.returncode == 0, (out, err)
    assert ward.coffer.json("verify", "--level", "decrypt")["findings"] == []  # type: ignore[call-overload,index]
    if args[0] == "keys":
        assert "1 studies with 3 instances have new keys" in out
    ward.coffer.start()
    ward.all_is_there()


def test_find_beside_a_server_has_what_was_stored_and_says_so_where_it_cannot(
    new_coffer: Callable[..., CofferProcess],
) -> None:
    ward = Ward(new_coffer())
    for study in range(1, 6):  # nobody asks the server in between: its index is written all the same
        ward.store(objects(study, 1))
        assert f"1.2.3.{study}" in ward.coffer.run("find", "--json", f"StudyInstanceUID=1.2.3.{study}").stdout
    older = ward.coffer.base / "older"
    shutil.copytree(ward.coffer.archive / "index", older)
    ward.store(objects(9, 1))
    ward.coffer.run("find")
    (older / "data.mdb").replace(ward.coffer.archive / "index" / "data.mdb")
    done = ward.coffer.run("find", check=False)
    assert done.returncode == 6, done.stdout
    assert "index/lock.mdb is not of the time of" in done.stderr
    ward.coffer.kill()
    assert "1.2.3.9" in ward.coffer.run("find", "--json").stdout
    ward.coffer.start()
    ward.all_is_there()
