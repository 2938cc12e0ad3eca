"""Where providers, passphrases and PINs come from; an archive that moves from a key file to an HSM."""

import json
from pathlib import Path

import pytest

from coffer.keys.errors import ConfigError
from coffer.server.config.providers import AwsKms, Pkcs11
from coffer.server.config.settings import Keys
from coffer.server.engine.providers import KINDS, provider_location, provider_of
from tests.keys import softhsm
from tests.server.filled import run, study_files


def test_an_epoch_of_a_provider_that_is_not_configured_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pkcs11 provider, which is not configured") as caught:
        provider_of(Keys(key_file=tmp_path / "key"), bytes(16)).of_kind("pkcs11")
    assert "[keys.pkcs11]" in caught.value.hint()


@pytest.mark.parametrize("content", [None, b"", b"\n1234\n"])
def test_a_pin_that_cannot_be_had_is_told(tmp_path: Path, content: bytes | None) -> None:
    pin = tmp_path / "pin"
    if content is not None:
        pin.write_bytes(content)
        pin.chmod(0o600)
    settings = Pkcs11(module=softhsm.library(), token="t", pin_file=pin)
    softhsm.make(tmp_path / "hsm").make_token("t")
    with pytest.raises(ConfigError, match=r"the PIN file .* (is empty|cannot be read)"):
        provider_of(Keys(provider="pkcs11", pkcs11=settings), bytes(16)).health()


def test_a_pin_variable_that_is_not_set_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_PIN", raising=False)
    softhsm.make(tmp_path / "hsm")
    settings = Pkcs11(module=softhsm.library(), token=softhsm.LABEL, pin_env="NO_SUCH_PIN")
    with pytest.raises(ConfigError, match="the environment variable NO_SUCH_PIN holds no PIN"):
        provider_of(Keys(provider="pkcs11", pkcs11=settings), bytes(16)).health()


def test_what_is_told_of_a_provider_has_no_secret() -> None:
    assert provider_location(Keys(key_file=Path("/k"))) == "key file /k"
    assert (
        provider_location(Keys(provider="pkcs11", pkcs11=Pkcs11(module=Path("/m"), token="t"))) == 'HSM token "t" of /m'
    )
    assert provider_location(Keys(provider="aws-kms", aws=AwsKms(region="eu-central-1"))) == "AWS KMS eu-central-1"
    assert set(KINDS) == {"file", "pkcs11", "aws-kms"}


def test_an_archive_moves_from_a_key_file_to_an_hsm_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one rotation each way, with both configured; afterwards the old one may go."""
    hsm = softhsm.make(tmp_path / "hsm")
    monkeypatch.setenv("HSM_PIN", softhsm.PIN)
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "coffer.toml"
    file_only = 'archive = "archive"\n[keys]\nkey_file = "key"\n'
    token = f'[keys.pkcs11]\nmodule = "{hsm.module}"\ntoken = "archive"\npin_env = "HSM_PIN"\n'
    config.write_text(file_only)
    run("init")
    run("put", *map(str, study_files(tmp_path / "files")))

    config.write_text(file_only + 'provider = "pkcs11"\n' + token)
    run("verify", "--level", "decrypt")  # what is there stays where it is
    run("keys", "rotate")
    run("keys", "destroy", "1", "--yes")
    (tmp_path / "key").rename(tmp_path / "away")
    run("verify", "--level", "decrypt")
    with hsm.away():
        run("verify", "--level", "decrypt", code=6)

    (tmp_path / "away").rename(tmp_path / "key")
    run("keys", "rotate", "--provider", "file")
    run("keys", "destroy", "2", "--yes")
    config.write_text(file_only)
    with hsm.away():
        run("verify", "--level", "decrypt")
    listed = [
        (e["provider"], e["state"], e["study_keys"]) for e in json.loads(run("keys", "list", "--json").stdout)["epochs"]
    ]
    assert listed == [("keyfile", "destroyed", 0), ("pkcs11", "destroyed", 0), ("keyfile", "active", 1)]
