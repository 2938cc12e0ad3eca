"""The keyring: durable before handed out, bound to its place, readable beside a writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import lmdb
import pytest

from coffer.keys.crypto import derive
from coffer.keys.errors import (
    ConfigError,
    FormatError,
    IntegrityError,
    KeyUnavailableError,
    LockedError,
    NotFoundError,
    ShreddedError,
    UnavailableError,
)
from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile
from coffer.keys.store.keyring_store import scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.sums import RowSums

ROOT = Path(__file__).resolve().parents[3]


def edit(folder: Path, changes: dict[bytes, bytes | None]) -> None:
    with lmdb.open(str(folder)) as env, env.begin(write=True) as txn:
        for key, value in changes.items():
            txn.delete(key) if value is None else txn.put(key, value)


def read(folder: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(folder), readonly=True) as env, env.begin() as txn:
        return {bytes(k): bytes(v) for k, v in txn.cursor()}


def test_keys_survive_reopening(keyring: Keyring, provider: KeyFileProvider, tmp_path: Path) -> None:
    made = [keyring.new_study(), *keyring.new_studies(3), keyring.new_study(b"i" * 16)]
    token = keyring.archive_key(derive.INDEX_TOKEN)
    keyring.close()
    again = Keyring.open(tmp_path / "keyring", provider)
    for key in made:
        assert again.study(key.key_id).dek.matches(key.dek)
        assert again.study(key.key_id).kcv == key.kcv == derive.derive(key.dek, b"coffer/kcv/v1", 16).reveal()
        assert again.study(key.key_id) is again.study(key.key_id)
    assert again.archive_key(derive.INDEX_TOKEN).matches(token)
    assert not again.archive_key(derive.CLAIM).matches(token)
    assert (again.archive_id, again.epoch, again.count()) == (bytes(range(16)), 1, 5)
    assert again.study_key_ids() == sorted(key.key_id for key in made)
    (epoch,) = again.epochs()
    assert (epoch.epoch, epoch.provider, epoch.rows) == (1, "keyfile", 5)
    again.close()


def test_files_are_private_and_hold_no_key(keyring: Keyring, tmp_path: Path) -> None:
    made = keyring.new_studies(20)
    assert (tmp_path / "keyring").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "keyring").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        assert not any(key.dek.reveal() in file.read_bytes() for key in made)


def test_the_row_is_durable_before_the_key_is_returned(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = LmdbKeyringStore.put

    def put(self: LmdbKeyringStore, changed: Sequence[tuple[bytes, bytes]], **more: object) -> bool:
        flags = self._file._env.flags()
        assert flags["sync"]
        assert flags["metasync"]
        assert flags["meminit"]
        assert not flags["writemap"]
        done = real(self, changed, **more)  # type: ignore[arg-type]
        order.append("durable")
        return done

    monkeypatch.setattr(LmdbKeyringStore, "put", put)
    keyring.new_study()
    order.append("returned")
    keyring.new_studies(2)
    order.append("returned")
    assert order == ["durable", "returned"] * 2


def test_a_failed_commit_hands_out_nothing_and_stops_writing_while_reads_go_on(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keyring.new_study()

    def fails(*_: object) -> None:
        raise lmdb.DiskError("fdatasync failed")

    with monkeypatch.context() as patched:
        patched.setattr(LmdbKeyringStore, "_write", fails)
        with pytest.raises(UnavailableError):
            keyring.new_study(b"x" * 16)
    with pytest.raises(UnavailableError, match="stopped"):
        keyring.new_study()
    with pytest.raises(KeyUnavailableError):
        keyring.study(b"x" * 16)
    keyring._studies._cache.clear()
    assert keyring.study(before.key_id).kcv == before.kcv


def test_a_retired_epoch_whose_secret_is_lost_closes_its_own_keys_only(
    keyring: Keyring, provider: KeyFileProvider, keyfile: Path, tmp_path: Path
) -> None:
    left = keyring.new_study()
    old_row = keyring.row(b"K" + left.key_id)
    keyring.rotate()
    keyring._store.put([(b"K" + left.key_id, old_row or b"")])  # as where the rotation had not come to it
    later = keyring.new_study()
    keyring.close()
    provider.destroy_epoch(1)  # the secret is lost behind the keyring's back
    ring = Keyring.open(tmp_path / "keyring", KeyFileProvider(keyfile))
    assert ring.study(later.key_id).kcv == later.kcv
    with pytest.raises(KeyUnavailableError, match="holds no secret for epoch 1"):
        ring.study(left.key_id)
    ring.check_provider()
    ring.close()


def test_a_proof_follows_a_rotation_of_another_process(
    keyring: Keyring, keyfile: Path, tmp_path: Path, provider: KeyFileProvider
) -> None:
    script = (
        "import sys; from pathlib import Path; from coffer.keys.keyring.keyring import Keyring;"
        "from coffer.keys.providers.key_file import KeyFileProvider;"
        "ring = Keyring.open(Path(sys.argv[1]), KeyFileProvider(Path(sys.argv[2])));"
        "ring.rotate(); ring.destroy_epoch(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "keyring"), str(keyfile)], check=True, timeout=60)
    keyring.check_provider()
    assert keyring.epoch == 2
    provider.destroy_epoch(2)
    with pytest.raises(KeyUnavailableError):
        keyring.check_provider()


WRITER = """
import sys
from pathlib import Path
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret
ring = Keyring.open(Path(sys.argv[1]), KeyFileProvider(Path(sys.argv[2])))
while True:
    print(ring.new_study().key_id.hex(), flush=True)
"""


def test_reading_beside_a_writer_that_is_then_killed(
    keyring: Keyring, provider: KeyFileProvider, keyfile: Path, tmp_path: Path
) -> None:
    keyring.close()
    command = [sys.executable, "-c", WRITER, str(tmp_path / "keyring"), str(keyfile)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as writer:
        assert writer.stdout is not None
        announced = [writer.stdout.readline().strip()]
        reader = Keyring.open(tmp_path / "keyring", provider, readonly=True)
        for _ in range(50):
            announced.append(writer.stdout.readline().strip())
            assert reader.study(bytes.fromhex(announced[-1])).kcv
        with pytest.raises(UnavailableError):
            reader.new_study()
        assert reader.count() >= 51
        reader.close()
        writer.send_signal(signal.SIGKILL)
        announced += [line.strip() for line in writer.stdout if line.endswith("\n")]
    again = Keyring.open(tmp_path / "keyring", provider)
    assert all(again.study(bytes.fromhex(key_id)) for key_id in announced)
    again.close()


def test_rows_swapped_between_studies_are_refused(keyring: Keyring, provider: KeyFileProvider, tmp_path: Path) -> None:
    one, two = keyring.new_studies(2)
    keyring.close()
    folder = tmp_path / "keyring"
    found = read(folder)
    a, b = b"K" + one.key_id, b"K" + two.key_id
    edit(folder, {a: found[b], b: found[a]})
    again = Keyring.open(folder, provider)
    for key in (one, two):
        with pytest.raises(IntegrityError):
            again.study(key.key_id)
    again.close()


def test_a_flipped_byte_in_every_position_of_a_row_is_refused(
    keyring: Keyring, provider: KeyFileProvider, tmp_path: Path
) -> None:
    key = keyring.new_study()
    name = b"K" + key.key_id
    row = keyring._store.get(name)
    assert row is not None
    keyring.close()
    ring = Keyring.open(tmp_path / "keyring", provider)
    for at in range(len(row)):
        ring._store.put([(name, row[:at] + bytes([row[at] ^ 1]) + row[at + 1 :])])
        with pytest.raises((IntegrityError, KeyUnavailableError)):
            ring.study(key.key_id)
    ring._store.put([(name, row)])
    assert ring.study(key.key_id).dek.matches(key.dek)
    ring.close()


def test_another_archive_s_rows_are_refused(keyring: Keyring, provider: KeyFileProvider, tmp_path: Path) -> None:
    keyring.close()
    other = Keyring.create(tmp_path / "other", provider, b"o" * 16)
    other.close()
    rows_of_other = read(tmp_path / "other")
    edit(tmp_path / "keyring", {b"A": rows_of_other[b"A"]})
    with pytest.raises(IntegrityError):
        Keyring.open(tmp_path / "keyring", provider)
    edit(tmp_path / "keyring", {b"E\0\0\0\1": rows_of_other[b"E\0\0\0\1"]})
    with pytest.raises(KeyUnavailableError):
        Keyring.open(tmp_path / "keyring", provider)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({b"H": None}, FormatError),
        ({b"H": b"CofferKR"}, FormatError),
        ({b"A": None}, IntegrityError),
        ({b"E\0\0\0\1": None}, IntegrityError),
        ({b"E\0\0\0\1": b"short"}, FormatError),
    ],
)
def test_a_damaged_keyring_does_not_open(
    keyring: Keyring,
    provider: KeyFileProvider,
    tmp_path: Path,
    changes: dict[bytes, bytes | None],
    error: type[Exception],
) -> None:
    keyring.close()
    edit(tmp_path / "keyring", changes)
    with pytest.raises(error):
        Keyring.open(tmp_path / "keyring", provider)


def test_missing_and_scheduled_keys(keyring: Keyring, provider: KeyFileProvider) -> None:
    with pytest.raises(KeyUnavailableError):
        keyring.study(b"?" * 16)
    kek_id, kek = keyring._epochs.keks[1]
    row = rows.KeyRow(rows.Purpose.STUDY, rows.KeyState.SHRED_SCHEDULED, 1, kek_id, 0)
    value = row.wrap(kek, keyring.archive_id, b"s" * 16, keyring.archive_key(b"any"), bytes)
    keyring._store.put([(b"K" + b"s" * 16, value)])
    with pytest.raises(ShreddedError):
        keyring.study(b"s" * 16)
    with pytest.raises(ConfigError):
        keyring.new_study(b"s" * 16)


def test_the_wrong_key_file_is_refused(keyring: Keyring, tmp_path: Path) -> None:
    keyring.close()
    generate_keyfile(tmp_path / "other-key")
    with pytest.raises(KeyUnavailableError):
        Keyring.open(tmp_path / "keyring", KeyFileProvider(tmp_path / "other-key"))


def test_wrong_folders(keyring: Keyring, provider: KeyFileProvider, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Keyring.open(tmp_path / "none", provider)
    with pytest.raises(LockedError):
        Keyring.open(tmp_path / "keyring", provider)
    keyring.close()
    with pytest.raises(ConfigError):
        Keyring.create(tmp_path / "keyring", provider, bytes(16))
    with pytest.raises(ConfigError):
        Keyring.create(tmp_path / "third", provider, bytes(15))


def test_the_map_grows(tmp_path: Path) -> None:
    store = LmdbKeyringStore(tmp_path / "s", create=True, map_bytes=65536)
    assert store.begin([], RowSums.under(Secret(bytes(32)), os.urandom))
    for start in range(0, 2000, 500):
        store.put([(b"K%08d" % i, bytes(140)) for i in range(start, start + 500)])
    assert len(scan(store, b"K")) == 2000
    store.close()


def test_many_threads_make_and_open_keys(keyring: Keyring) -> None:
    made: list[bytes] = []

    def work() -> None:
        for _ in range(10):
            key = keyring.new_study()
            assert keyring.study(key.key_id).dek.matches(key.dek)
            made.append(key.key_id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == keyring.count() == 80
