"""Every command that uses a key refuses when a primitive answers wrongly; every one that changes keys is recorded."""

import importlib
import os
import pkgutil
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import click
import msgspec
import pytest

from coffer.archive.events.recorded import Recorded
from coffer.archive.format.record import Kind
from coffer.keys.crypto import selftest
from coffer.server.access.principal import Principal
from coffer.server.cli import main
from coffer.server.config.load import load_config
from coffer.server.config.passing import encode_config
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.workers import messages
from coffer.server.workers.transport import LineClosed, Wire
from tests.server.filled import free_port, run, study_files

ROOT = Path(__file__).resolve().parents[2]
STUDY = "1.2.826.0.1.3680043.10.1234.1"
SHARES = ["--share", "shares/1", "--share", "shares/2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of one study with two epochs, the second of them split."""
    base = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(base)
    try:
        (base / "coffer.toml").write_text(
            "archive = 'data'\n[integrity]\nmark = 'data.mark'\n"
            f"[storage]\nreserve_bytes = 0\n[keys]\nkey_file = 'key'\n[dimse]\nport = {free_port()}\n"
            "[http]\nenabled = false\n"
        )
        run("init")
        run("put", *map(str, study_files(base / "files")))
        run("keys", "rotate")
        run("keys", "split", "-n", "2", "-k", "2", "-o", "shares")
        for number, path in enumerate(sorted((base / "shares").iterdir()), 1):
            path.rename(base / "shares" / str(number))
    finally:
        os.chdir(before)
    return base


@pytest.fixture
def archive(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy" / "data"


def study_uid() -> str:
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        return str(next(engine.index.query("STUDY", {0x0020000D: ()}, "study"))[0x0020000D][0])


USES_KEYS = (
    ("--archive", "other", "init"),
    ("put", "files"),
    ("get", "--study", "UID", "--out", "out"),
    ("find",),
    ("status",),
    ("verify", "--level", "decrypt"),
    ("index", "rebuild"),
    ("keys", "rotate"),
    ("keys", "destroy", "1", "--yes"),
    ("keys", "rekey", "UID", "--reason", "r", "--yes"),
    ("keys", "split", "-n", "2", "-k", "2", "-o", "more"),
    ("keys", "drill", *SHARES),
    ("keys", "recover", *SHARES),
    ("shred", "UID", "--reason", "r", "--yes"),
    ("shred", "request", "UID", "--reason", "r"),
    ("shred", "list"),
    ("hold", "add", "UID", "--reason", "r"),
    ("checkpoint", "sign"),
    ("recover", "accept-loss", "--to", "4"),
)


def test_nothing_is_done_with_keys_when_a_primitive_is_broken(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = study_uid()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "lock.mdb"}

    def broken() -> bool:
        return False

    monkeypatch.setattr(selftest, "_TESTS", [*selftest._TESTS, broken])
    for command in USES_KEYS:
        selftest._passed.clear()  # as in a process of its own
        said = run(*(uid if word == "UID" else word for word in command), code=3).output
        assert "cryptographic self-test failed: broken" in said, command
    after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "lock.mdb"}
    assert after == before


def broken_environment(folder: Path) -> dict[str, str]:
    """An environment whose Python processes have an HMAC that answers wrongly."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import hmac\nhmac.digest = lambda key, data, name: bytes(32)\n")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def test_a_process_with_a_broken_primitive_says_so_and_ends(archive: Path, tmp_path: Path) -> None:
    environment = broken_environment(tmp_path / "broken")
    command = [sys.executable, "-c", "from coffer.server.cli import main; main()", "keys", "rotate"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 3
    assert "cryptographic self-test failed: hmac_sha256" in done.stderr

    config = load_config(Path("coffer.toml"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "coffer.server.workers", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        wire = Wire(ours)
        wire.send(messages.encode(messages.Setup(encode_config(config), b"", bytes(16), bytes(32), 1)))
        with pytest.raises(LineClosed):
            wire.receive()
        assert "cryptographic self-test failed: hmac_sha256" in worker.communicate(timeout=30)[1]
        assert worker.returncode == 1


RECORDED: dict[str, tuple[tuple[str, ...], set[tuple[Kind, str]]]] = {
    "keys rotate": (("keys", "rotate", "--officer", "Meyer"), {(Kind.KEYRING_ROTATED, "epoch.rotated")}),
    "keys destroy": (
        ("keys", "destroy", "1", "--yes", "--officer", "Meyer"),
        {(Kind.EPOCH_DESTROYED, "epoch.destroyed")},
    ),
    "keys rekey": (
        ("keys", "rekey", "UID", "--reason", "r", "--yes", "--officer", "Meyer"),
        {(Kind.STATE, "rekey.ordered"), (Kind.STUDY_REKEYED, "study.rekeyed")},
    ),
    "keys rotate-signing": (
        ("keys", "rotate-signing", "--reason", "r", "--officer", "Meyer"),
        {(Kind.STATE, "signing_key.ordered"), (Kind.SIGNING_KEY_ROTATED, "signing_key.rotated")},
    ),
    "keys split": (
        ("keys", "split", "-n", "2", "-k", "2", "-o", "more", "--officer", "Meyer"),
        {(Kind.STATE, "shares.made")},
    ),
    "keys drill": (("keys", "drill", *SHARES, "--officer", "Meyer"), {(Kind.STATE, "shares.drilled")}),
    "keys recover": (
        ("keys", "recover", *SHARES, "--key-file", "rescue", "--officer", "Meyer"),
        {(Kind.STATE, "key.recovered")},
    ),
    "shred study": (
        ("shred", "UID", "--reason", "r", "--yes", "--officer", "Meyer"),
        {(Kind.SHRED_SCHEDULED, "study.shredded")},
    ),
    "shred request": (
        ("shred", "request", "UID", "--reason", "r", "--officer", "Meyer"),
        {(Kind.STATE, "shred.requested")},
    ),
}
ELSEWHERE = {  # they change keys too; tests/server/test_shred_*.py and test_certificate.py read their events
    "shred approve",
    "shred cancel",
    "shred finish",
    "shred certificate",
    "keys burn",  # tests/promises/test_erased_is_erased.py
    "keys copied",  # tests/promises/test_copies_count.py
}
CHANGE_NOTHING = {"keys list", "keys copies", "keys audit", "keys export", "shred list", "shred check"}


def test_the_table_below_is_complete() -> None:
    assert isinstance(main, click.Group)
    groups = {name: main.commands[name] for name in ("keys", "shred")}
    there = {f"{name} {each}" for name, group in groups.items() for each in group.commands}  # type: ignore[attr-defined]
    assert there == {*RECORDED, *ELSEWHERE, *CHANGE_NOTHING}


@pytest.mark.parametrize("command", RECORDED)
def test_whatever_changes_keys_is_recorded(command: str, archive: Path) -> None:
    words, expected = RECORDED[command]
    uid = study_uid()

    def events() -> list[Recorded]:
        with open_writer(load_config(Path("coffer.toml"))) as engine:  # what waits is delivered
            kinds = frozenset(Kind) - {Kind.OBJECT, Kind.STUDY_KEY_CREATED}
            return [*engine.events(kinds)]

    seen = len(events())
    run(*(uid if word == "UID" else word for word in words))
    if command == "keys recover":
        shutil.copy("rescue", "key")
    fresh = events()[seen:]
    assert {(each.event.kind, each.event.code) for each in fresh} == expected
    assert len(fresh) == len(expected)
    if "--officer" in words:
        told_ = msgspec.json.encode([each.event for each in fresh]).decode()
        assert "Meyer" in told_
        assert Principal.here(None).account in told_
    assert not events()[seen + len(expected) :]


def test_no_message_between_processes_shows_its_values() -> None:
    kinds = [each for each in vars(messages).values() if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    assert {messages.Key, messages.Setup} <= set(kinds)
    secret = b"thirty-two bytes that are a key!"
    shown = [messages.Key(secret, 5.0), messages.Setup(secret, secret, secret, secret, 2), messages.KeyOf(secret)]
    for message in shown:
        assert secret.decode() not in f"{message} {message!r} {message.__rich_repr__()}"
    assert repr(shown[0]) == "Key(<bytes>, <float>)"


KEY_WORDS = {"dek", "kek", "secret", "key", "pin", "passphrase", "seed", "log_id_key", "stretched", "private"}


def carriers() -> Iterator[tuple[type, str]]:
    """Every struct and dataclass of the product with a field that is named like a key and made of bytes."""
    for package in ("keys", "archive", "index", "server"):
        for module in pkgutil.walk_packages([str(ROOT / package)], f"coffer.{package}."):
            if module.name.endswith("__main__") or ".kernel-" in module.name:
                continue  # it would run; a library that is no module of Python
            for each in vars(importlib.import_module(module.name)).values():
                if isinstance(each, type) and each.__module__ == module.name:
                    fields = getattr(each, "__annotations__", {})
                    yield from ((each, name) for name in fields if name in KEY_WORDS and "bytes" in str(fields[name]))


def test_every_type_that_carries_key_bytes_hides_them() -> None:
    """Nearly all keys are a Secret, which no repr shows."""
    found = list(carriers())
    assert {"Setup.log_id_key"} <= {f"{each.__name__}.{name}" for each, name in found}
    for each, name in found:
        own = is_dataclass(each) and not each.__dataclass_params__.repr  # type: ignore[attr-defined]
        assert own or (issubclass(each, messages._Message)), f"{each.__name__} shows its {name}"
