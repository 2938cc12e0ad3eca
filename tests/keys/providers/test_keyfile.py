"""The key file: permissions, damage, bounds, passphrases, epochs."""

from __future__ import annotations

import struct
from hashlib import sha256
from pathlib import Path

import pytest

from coffer.keys.errors import ConfigError, FormatError, KeyUnavailableError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.providers import key_file as module
from coffer.keys.providers.key_file import (
    CHEAPEST_FOR_TESTS,
    DEFAULT_COST,
    Argon2Cost,
    KeyFileProvider,
    generate_keyfile,
)

CONTEXT = b"archive and epoch"


def rewrite(path: Path, **fields: bytes) -> None:
    """Overwrite fields at `at<offset>` and put a right checksum under the result."""
    data = bytearray(path.read_bytes()[:-32])
    for name, value in fields.items():
        at = int(name.removeprefix("at"))
        data[at : at + len(value)] = value
    path.write_bytes(bytes(data) + sha256(data).digest())


def test_round_trip_and_binding(provider: KeyFileProvider, keyfile: Path) -> None:
    kek, wrapped = provider.create_epoch(1, CONTEXT)
    assert KeyFileProvider(keyfile).unwrap(wrapped, CONTEXT).matches(kek)
    for bad_wrapped, context in ((wrapped, b"other"), (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), CONTEXT)):
        with pytest.raises(KeyUnavailableError):
            provider.unwrap(bad_wrapped, context)
    with pytest.raises(FormatError):
        provider.unwrap(wrapped[:-1], CONTEXT)


def test_generate_is_private_and_never_overwrites(keyfile: Path) -> None:
    before = keyfile.read_bytes()
    assert keyfile.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UnavailableError):
        generate_keyfile(keyfile)
    assert keyfile.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601])
def test_open_to_others_is_refused(provider: KeyFileProvider, keyfile: Path, mode: int) -> None:
    keyfile.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        provider.health()
    assert "chmod 600" in caught.value.hint()


def test_missing_or_strange_file(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailableError):
        KeyFileProvider(tmp_path / "none").health()
    (tmp_path / "d").mkdir(mode=0o700)
    with pytest.raises((ConfigError, KeyUnavailableError)):
        KeyFileProvider(tmp_path / "d").health()


def test_every_length_and_every_flipped_byte_is_refused(provider: KeyFileProvider, keyfile: Path) -> None:
    data = keyfile.read_bytes()
    for length in range(len(data)):
        keyfile.write_bytes(data[:length])
        with pytest.raises(KeyUnavailableError, match="key file"):
            provider.health()
    for at in range(len(data)):
        keyfile.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(KeyUnavailableError, match="key file"):
            provider.health()
    keyfile.write_bytes(data + b"\0")
    with pytest.raises(KeyUnavailableError, match="key file"):
        provider.health()


@pytest.mark.parametrize(
    "fields",
    [
        {"at8": struct.pack(">H", 2)},
        {"at10": struct.pack(">H", 2)},
        {"at12": struct.pack(">I", 1)},
        {"at24": b"salt without a pass"[:16]},
        {"at42": struct.pack(">H", 1)},
        {"at44": struct.pack(">I", 0)},
    ],
)
def test_values_never_written_are_refused(provider: KeyFileProvider, keyfile: Path, fields: dict[str, bytes]) -> None:
    rewrite(keyfile, **fields)
    with pytest.raises(KeyUnavailableError, match="key file"):
        provider.health()


@pytest.mark.parametrize(
    ("t", "p", "m_kib"),
    [(1, 1, 1 << 30), (17, 1, 8), (1, 17, 200), (0, 1, 8), (1, 0, 8), (1, 2, 8), (1, 1, (1 << 22) + 1)],
)
def test_a_tebibyte_is_refused_before_deriving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, t: int, p: int, m_kib: int
) -> None:
    path = tmp_path / "k"
    generate_keyfile(path, Secret(b"pass"), cost=CHEAPEST_FOR_TESTS)
    provider = KeyFileProvider(path, lambda: Secret(b"pass"))
    _, wrapped = provider.create_epoch(1, CONTEXT)
    rewrite(path, at12=struct.pack(">III", t, p, m_kib))

    def never(**_: object) -> None:
        raise AssertionError("derived with unchecked parameters")

    monkeypatch.setattr(module, "Argon2id", never)
    with pytest.raises(KeyUnavailableError, match="bounds"):
        provider.unwrap(wrapped, CONTEXT)


def test_passphrase_and_file_are_both_needed(tmp_path: Path) -> None:
    for name in "ab":
        generate_keyfile(tmp_path / name, Secret(b"pass"), cost=CHEAPEST_FOR_TESTS)
    asked = []

    def passphrase() -> Secret:
        asked.append(1)
        return Secret(b"pass")

    provider = KeyFileProvider(tmp_path / "a", passphrase)
    kek, wrapped = provider.create_epoch(1, CONTEXT)
    assert provider.unwrap(wrapped, CONTEXT).matches(kek)
    assert len(asked) == 1
    for other in (
        KeyFileProvider(tmp_path / "a", lambda: Secret(b"Pass")),
        KeyFileProvider(tmp_path / "a"),
        KeyFileProvider(tmp_path / "a", lambda: Secret(b"")),
        KeyFileProvider(tmp_path / "b", passphrase),
    ):
        with pytest.raises(KeyUnavailableError):
            other.unwrap(wrapped, CONTEXT)
    with pytest.raises(ConfigError):
        generate_keyfile(tmp_path / "c", Secret(b""))
    assert not provider.describe().fips_algorithms


def test_epochs_come_and_go(provider: KeyFileProvider, keyfile: Path) -> None:
    _, first = provider.create_epoch(1, CONTEXT)
    kek, second = provider.create_epoch(2, CONTEXT)
    secret = keyfile.read_bytes()[48:80]
    assert provider.describe().epochs == (1, 2)
    assert provider.destroy_epoch(1).epoch == 1
    assert provider.destroy_epoch(1).kind == "keyfile"
    assert provider.describe().epochs == (2,)
    assert keyfile.stat().st_mode & 0o777 == 0o600
    assert secret not in keyfile.read_bytes()
    assert provider.unwrap(second, CONTEXT).matches(kek)
    with pytest.raises(KeyUnavailableError):
        provider.unwrap(first, CONTEXT)
    with pytest.raises(ConfigError):
        provider.create_epoch(0, CONTEXT)


def test_destroying_overwrites_the_old_file(provider: KeyFileProvider, keyfile: Path, tmp_path: Path) -> None:
    remnant = tmp_path / "remnant"
    remnant.hardlink_to(keyfile)  # stands for the blocks of the unlinked file
    provider.destroy_epoch(1)
    assert set(remnant.read_bytes()) == {0}


@pytest.mark.parametrize(
    ("passes", "lanes", "m_kib"),
    [(1, 1, (1 << 20) + 1), (17, 1, 8), (1, 17, 1 << 10), (3, 4, 1 << 20), (16, 16, 4 << 20)],
)
def test_a_header_that_asks_for_too_much_work_is_refused_before_it_begins(passes: int, lanes: int, m_kib: int) -> None:
    with pytest.raises(FormatError, match="outside the allowed bounds"):
        Argon2Cost(passes, lanes, m_kib).check()
    DEFAULT_COST.check()
    Argon2Cost(2, 4, 1 << 20).check()
