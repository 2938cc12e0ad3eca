"""Keys in memory: wiped when nobody needs them, locked, in no core dump; and all that works where it is refused."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import coffer.keys.keyring.studies
from coffer.keys.crypto.shamir import combine
from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory import hardening, locked_pages
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, KeyFileProvider, generate_keyfile
from coffer.keys.values.epoch import EpochState
from tests.conftest import absent

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def linux() -> None:
    if sys.platform != "linux":
        absent("/proc and prctl are Linux's")


def held(needle: bytes) -> bool:
    """Whether the bytes stand anywhere in the memory of secrets."""
    return any(needle in block[:] for block in locked_pages._blocks)


def python(script: str, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100, 40_000])
def test_a_secret_that_nobody_refers_to_is_wiped(size: int) -> None:
    value = random.Random(size).randbytes(size)
    secret = other = Secret(value)
    assert secret.reveal() == value
    assert held(value)
    del secret
    assert other.reveal() == value
    assert held(value)
    del other
    assert size < 8 or not held(value)


def test_a_wiped_secret_keeps_its_place_until_it_is_gone() -> None:
    value = os.urandom(32)
    secret = Secret(value)
    place = secret._slot
    secret.wipe()
    secret.wipe()
    assert not held(value)
    others = [Secret(bytes([n]) * 32) for n in range(1, 200)]
    assert all(other._slot is not place for other in others)
    del secret
    assert place in place.home
    assert place.block[place.at : place.at + 32] == bytes(32)


def test_who_reads_while_it_is_wiped_gets_an_error_and_never_zeros() -> None:
    secret = Secret(b"k" * 32)
    block = secret._slot.block

    class Interleaved:
        """The block, in which another thread wipes between the reader's two looks at the secret."""

        def __getitem__(self, where: slice) -> bytes:
            secret.wipe()
            return block[where]

        def __setitem__(self, where: slice, value: bytes) -> None:
            block[where] = value

    secret._slot.block = Interleaved()  # type: ignore[assignment]
    try:
        with pytest.raises(ValueError, match="wiped"):
            secret.reveal()
    finally:
        secret._slot.block = block


def test_secrets_of_many_threads_do_not_touch_each_other() -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        dice = random.Random(seed)
        mine: list[tuple[bytes, Secret]] = []
        for _ in range(4000):
            value = dice.randbytes(dice.choice((16, 32, 32, 64)))
            mine.append((value, Secret(value)))
            if len(mine) > 20:
                mine.pop(dice.randrange(len(mine)))
            expected, secret = dice.choice(mine)
            if secret.reveal() != expected:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_a_keyring_lets_go_of_keys_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coffer.keys.keyring.studies, "_CACHED", 2)
    generate_keyfile(tmp_path / "key", Secret(b"a passphrase"), cost=CHEAPEST_FOR_TESTS)
    provider = KeyFileProvider(tmp_path / "key", lambda: Secret(b"a passphrase"))
    keyring = Keyring.create(tmp_path / "keyring", provider, bytes(16))

    first = keyring.new_study().dek.reveal()
    assert held(first)
    kept = [key.dek.reveal() for key in keyring.new_studies(2)]
    assert not held(first), "a study key that left the cache"

    old = keyring._epochs.keks[1][1].reveal()
    recovered = combine({str(share.index): share for share in keyring.make_shares(2, 3)})
    keyring.rotate()
    keyring.destroy_epoch(1)
    assert held(old), "somebody still uses it"
    del recovered
    assert not held(old), "the key of a destroyed epoch"

    keyring.rotate()
    told = keyring._epochs.keks[2][1].reveal()
    row = keyring.epoch_row(2)
    ended = type(row)(EpochState.DESTROYED, 2, row.kek_id, row.created_ms, row.provider, b"")
    changes = (keyring.changes() + 1).to_bytes(8, "big")
    keyring._store.put([(rows.EPOCH_PREFIX + b"\0\0\0\2", ended.encode()), (rows.CHANGES_KEY, changes)])
    assert held(told)
    assert keyring.epoch == 3
    assert not held(told), "the key of an epoch that another process destroyed"
    assert not any(held(dek) for dek in kept), "study keys, which may have been taken away"

    again = keyring.study(keyring.study_key_ids()[0]).dek.reveal()
    last, root = keyring._epochs.keks[3][1], keyring._root.reveal()
    needles = [again, last.reveal(), root]
    assert all(held(needle) for needle in needles)
    keyring.close()
    assert not any(held(needle) for needle in needles), "a closed keyring's keys, whoever still refers to them"
    with pytest.raises(ValueError, match="wiped"):
        last.reveal()
    stretched = provider._stretched[2].reveal() if provider._stretched else b""
    assert held(stretched)
    del provider, keyring
    assert not held(stretched)


@pytest.mark.usefixtures("linux")
def test_pages_of_secrets_are_locked_and_in_no_dump() -> None:
    secret = Secret(b"x" * 32)
    assert len(secret) == 32
    flags = [line.split()[1:] for line in Path("/proc/self/smaps").read_text().splitlines() if line[:7] == "VmFlags"]
    guarded = [each for each in flags if "lo" in each and "dd" in each]
    assert guarded
    assert not hardening.refusals()


REFUSED = """
import os, resource
from coffer.keys.memory import hardening as guard
from coffer.keys.memory.secret import Secret
try:
    os.setuid(65534)  # root may lock what it likes
except PermissionError:
    pass
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
values = [bytes([n % 256]) * 32 for n in range(2000)]
secrets = [Secret(value) for value in values]
assert all(secret.matches(value) for secret, value in zip(secrets, values))
print(guard.refusals())
"""


@pytest.mark.usefixtures("linux")
def test_where_memory_cannot_be_locked_it_is_told_once_and_all_works() -> None:
    done = python(REFUSED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("keys in memory may be written to swap: ") == 1
    assert "LimitMEMLOCK" in done.stdout


DUMPED = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
from coffer.keys.memory import hardening as guard
if "guarded" in sys.argv:
    guard.forbid_dumps()
os.abort()
"""


@pytest.mark.usefixtures("linux")
def test_a_guarded_process_leaves_no_core_dump(tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        absent("core dumps are forbidden here already")

    def dumps(*args: str) -> bool:
        process = subprocess.Popen(
            [sys.executable, "-c", DUMPED, *args], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == -signal.SIGABRT
        return os.WCOREDUMP(status)

    if not dumps():
        absent("no process leaves a core dump here")
    assert not dumps("guarded")


ENTRIES = {
    "command": "from coffer.server.cli import main; main(['config', 'check'], standalone_mode=False)",
    "lane": (
        "import socket, sys; from coffer.server.workers import messages, transport, worker\n"
        "ours, theirs = socket.socketpair()\n"
        "transport.Wire(ours).send(messages.encode(messages.Quit(0.0))); sys.argv[1:] = [str(theirs.detach())]\n"
        "worker.main()"
    ),
}


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_kind_of_process_forbids_dumps(entry: str) -> None:
    script = ENTRIES[entry] + "\nimport ctypes, resource\n"
    script += "print('left', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)[0])"
    done = python(script)
    assert "left 0 0" in done.stdout, done.stderr
