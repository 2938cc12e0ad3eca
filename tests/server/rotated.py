"""An archive with a key file and a token, in which a rotation can be due, stopped, or made past every check."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from click.testing import Result

from coffer.archive.events.event import Event
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.clock import clock_ms
from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.server.config.providers import Pkcs11
from coffer.server.config.settings import Config, Keys
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.engine.providers import provider_of
from tests.keys import softhsm
from tests.keys.softhsm import SoftHsm
from tests.server.filled import run
from tests.server.keyops.test_key_provider import check, config_of, page

DAY_MS = 86_400_000
STOPPED = 77
E = TypeVar("E", bound=Event)

HALF = """
import os, sys
from pathlib import Path
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.keyring.keyring import Keyring
ring = Keyring.open(Path(sys.argv[1]), KeyFileProvider(Path(sys.argv[2])))
ring.count() or ring.new_study()
ring.rotate(lambda *_: os._exit(77))
"""
PAST_THE_CHECK = """
import sys
from pathlib import Path
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.keyring.keyring import Keyring
from coffer.server.config.load import load_config
from coffer.server.engine.providers import provider_of
config = load_config(Path(sys.argv[1]), None)
folder = ArchiveFolder.open(config.archive)
Keyring.open(folder.keyring, provider_of(config.keys, folder.archive_id, "pkcs11")).rotate()
"""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """An archive with a key file, and a coffer.toml beside it."""
    config = config_of(tmp_path, Keys(key_file=tmp_path / "key", check_seconds=0.1))
    create_archive(config)
    write(config)
    yield config
    check(config)


@pytest.fixture
def hsm(tmp_path: Path) -> SoftHsm:
    (tmp_path / "pin").write_text(softhsm.PIN + "\n")
    (tmp_path / "pin").chmod(0o600)
    return softhsm.make(tmp_path / "hsm")


def write(config: Config, *lines: str) -> Path:
    """The settings of the command line: the key file, and what stands in `lines`."""
    file = config.archive.parent / "coffer.toml"
    text = [f'archive = "{config.archive}"', "[http]", "enabled = false", "[keys]"]
    file.write_text("\n".join([*text, f'key_file = "{config.archive.parent / "key"}"', *lines]) + "\n")
    return file


def pkcs11(hsm: SoftHsm, *more: str) -> list[str]:
    """The lines that configure the token."""
    pin = hsm.folder.parent / "pin"
    return [*more, "[keys.pkcs11]", f'module = "{hsm.module}"', f'token = "{softhsm.LABEL}"', f'pin_file = "{pin}"']


def with_hsm(config: Config, hsm: SoftHsm, **more: object) -> Config:
    """The same archive with the token configured besides the key file."""
    settings = Pkcs11(module=hsm.module, token=softhsm.LABEL, pin_file=hsm.folder.parent / "pin")
    return msgspec.structs.replace(config, keys=msgspec.structs.replace(config.keys, pkcs11=settings, **more))


def coffer(config: Config, *args: str, code: int = 0) -> Result:
    """One command in this process, which has no terminal."""
    return run("--config", str(config.archive.parent / "coffer.toml"), *args, code=code)


def beside(config: Config, *args: str, code: int = 0) -> str:
    """One command in a process of its own, beside a server in this one; what it said."""
    file = str(config.archive.parent / "coffer.toml")
    command = [sys.executable, "-c", "from coffer.server.cli import main; main()", "--config", file, *args]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def told(config: Config, *args: str) -> Any:
    return json.loads(coffer(config, *args, "--json").stdout)


def keyring_of(config: Config) -> Keyring:
    folder = ArchiveFolder.open(config.archive)
    return Keyring.open(folder.keyring, provider_of(config.keys, folder.archive_id))


def leave_half_done(config: Config) -> None:
    """A rotation to the next epoch of the key file that dies when it has moved every key."""
    command = [sys.executable, "-c", HALF, str(config.archive / "keyring"), str(config.keys.key_file)]
    assert subprocess.run(command, timeout=60, cwd=Path(__file__).parents[2]).returncode == STOPPED


def make_older(config: Config, days: int) -> None:
    """Let the current epoch be so many days old; nothing authenticates that time."""
    ring = keyring_of(config)
    place = rows.epoch_row_key(ring.epoch)
    row = ring.row(place)
    assert row is not None
    ring.amend([(place, row[:24] + (clock_ms() - days * DAY_MS).to_bytes(8, "big") + row[32:])])
    ring.close()


def events(config: Config, *classes: type[E]) -> list[E]:
    """The log's events of these classes, oldest first; what waits is delivered before."""
    with open_writer(config) as engine:
        told = [each.event for each in engine.events(frozenset(of.kind for of in classes))]
    return [event for event in told if isinstance(event, classes)]


def value(config: Config, metric: str) -> float:
    """Of a metric; -1 while the archive does not answer for it yet."""
    found = [line for line in page(config, "metrics")[1].splitlines() if line.startswith(f"{metric} ")]
    return float(found[0].split()[1]) if found else -1.0


def epochs(listed: str) -> list[tuple[int, str, str, int]]:
    """Every epoch of `coffer keys list --json`: number, provider, state, study keys."""
    return [(e["epoch"], e["provider"], e["state"], e["study_keys"]) for e in json.loads(listed)["epochs"]]


def epochs_beside(config: Config) -> list[tuple[int, str, str, int]]:
    return epochs(beside(config, "keys", "list", "--json"))


def epochs_of(config: Config) -> list[tuple[int, str, str, int]]:
    return epochs(coffer(config, "keys", "list", "--json").stdout)
