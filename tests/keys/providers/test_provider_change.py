"""From a key file to an HSM: killed at every durable step, everything opens with both, and the same command goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from coffer.keys.keyring import rotation
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile
from coffer.keys.providers.pkcs11 import HsmProvider
from coffer.keys.providers.routing import ProviderSet
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from tests.keys import softhsm

ROOT = Path(__file__).resolve().parents[3]
STUDIES = 5
KILLED = 9
ENOUGH = 60  # steps; it ends long before


def open_at(base: Path, module: Path) -> Keyring:
    """The keyring of a folder that holds it, a key file and a token; new epochs go to the token."""
    hsm = softhsm.SoftHsm(module, base / "hsm")
    both = ProviderSet("pkcs11", {"keyfile": lambda: KeyFileProvider(base / "key"), "pkcs11": hsm.provider})
    return Keyring.open(base / "keyring", both)


def stop_at(step: int) -> None:
    """Let this process die before or after its n-th durable change, by turns."""
    left = [step]

    def stopping(inner: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            for act in (lambda: None, lambda: inner(*args, **more)):
                done = act()
                left[0] -= 1
                if left[0] < 0:
                    os._exit(KILLED)
            return done

        return call

    LmdbKeyringStore.put = stopping(LmdbKeyringStore.put)  # type: ignore[method-assign, assignment]
    HsmProvider._make = stopping(HsmProvider._make)  # type: ignore[method-assign, assignment]
    KeyFileProvider.destroy_epoch = stopping(KeyFileProvider.destroy_epoch)  # type: ignore[method-assign, assignment]


def change(base: Path, module: Path, step: int) -> None:
    """Move to the HSM and end the key file's epoch, or die on the way."""
    rotation._PAGE = 2
    stop_at(step)
    ring = open_at(base, module)
    ring.rotate()
    ring.destroy_epoch(1)
    os._exit(0)


def go_on(base: Path, module: Path, told: str) -> None:
    """What the next start finds: all opens, all goes on, and in the end the HSM alone is enough."""
    kcvs = json.loads(told)
    ring = open_at(base, module)
    assert {key: ring.study(bytes.fromhex(key)).kcv.hex() for key in kcvs} == kcvs
    if ring.epoch == 1 or ring.partly_rotated():
        ring.rotate()
    ring.destroy_epoch(1)
    ring.close()
    (base / "key").unlink()
    ring = open_at(base, module)
    assert {key: ring.study(bytes.fromhex(key)).kcv.hex() for key in kcvs} == kcvs
    assert (ring.epoch, ring.epoch_row(2).provider, ring.rotate().epoch) == (2, "pkcs11", 3)
    os._exit(0)


def run(what: Callable[..., None], base: Path, *args: object) -> int | None:
    """In a process of its own, in which no PKCS#11 module was started yet."""
    os.environ["SOFTHSM2_CONF"] = str(base / "hsm" / "softhsm2.conf")
    process = multiprocessing.get_context("fork").Process(target=what, args=(base, *args))
    process.start()
    process.join(60)
    return process.exitcode


def enumerate_steps(made: Path, module: Path) -> None:
    """Kill at each step in turn; prints how many there were."""
    generate_keyfile(made / "key")
    ring = Keyring.create(made / "keyring", KeyFileProvider(made / "key"), softhsm.ARCHIVE_ID)
    kcvs = json.dumps({key.key_id.hex(): key.kcv.hex() for key in ring.new_studies(STUDIES)})
    ring.close()
    for step in range(ENOUGH):
        base = made.with_name(f"at{step}")
        shutil.copytree(made, base)
        conf = base / "hsm" / "softhsm2.conf"
        conf.write_text(conf.read_text().replace(str(made), str(base)))
        code = run(change, base, module, step)
        assert code in (0, KILLED), (step, code)
        assert run(go_on, base, module, kcvs) == 0, step
        shutil.rmtree(base)
        if code == 0:
            print(step)
            return
    raise AssertionError("the steps did not come to an end")


def test_a_change_of_provider_is_killed_at_every_step_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    module = softhsm.make(tmp_path / "made" / "hsm").module
    code = "import sys, pathlib; from tests.keys.providers.test_provider_change import enumerate_steps as e; "
    code += "e(*map(pathlib.Path, sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(tmp_path / "made"), str(module)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stderr
    # Before and after each: the token's key, the first, three pages' and the last transaction, four of the end.
    assert int(done.stdout) == 2 * (1 + 1 + 3 + 1 + 4)
