"""Where providers, passphrases and PINs come from; an archive that moves from a key file to an HSM."""

from pathlib import Path

import pytest

from keys.errors import ConfigError
from keys.keyring import Keyring
from keys.rows import epoch_context
from server.config import AwsKms, Config, Http, Keys, Pkcs11
from server.custody import KINDS, provider_of, told
from server.engine import Engine
from tests.keys import softhsm


def test_an_epoch_of_a_provider_that_is_not_configured_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pkcs11 provider, which is not configured") as caught:
        provider_of(Keys(key_file=tmp_path / "key"), bytes(16)).of_kind("pkcs11")
    assert "[keys.pkcs11]" in caught.value.hint()


@pytest.mark.parametrize("content", [None, b"", b"\n1234\n"])
def test_a_pin_that_cannot_be_had_is_told(tmp_path: Path, content: bytes | None) -> None:
    pin = tmp_path / "pin"
    if content is not None:
        pin.write_bytes(content)
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
    assert told(Keys(key_file=Path("/k"))) == "key file /k"
    assert told(Keys(provider="pkcs11", pkcs11=Pkcs11(module=Path("/m"), token="t"))) == 'HSM token "t" of /m'
    assert told(Keys(provider="aws-kms", aws=AwsKms(region="eu-central-1"))) == "AWS KMS eu-central-1"
    assert set(KINDS) == {"file", "pkcs11", "aws-kms"}


def test_an_archive_moves_from_a_key_file_to_an_hsm(tmp_path: Path) -> None:
    """What a rotation does, by hand: the new provider makes the epoch while the old one opens its own."""
    file_only = Keys(key_file=tmp_path / "key")
    Engine.create(Config(archive=tmp_path / "archive", http=Http(enabled=False), keys=file_only))
    hsm = softhsm.make(tmp_path / "hsm")
    (tmp_path / "pin").write_text(softhsm.PIN)
    settings = Pkcs11(module=hsm.module, token=softhsm.LABEL, pin_file=tmp_path / "pin")
    both = Keys(key_file=tmp_path / "key", provider="pkcs11", pkcs11=settings)
    with Engine.open(Config(archive=tmp_path / "archive", keys=both), write=True) as engine:
        archive_id = engine.folder.archive_id
        assert [epoch.provider for epoch in engine.keyring.epochs()] == ["keyfile"]
    provider = provider_of(both, archive_id)
    context = epoch_context(archive_id, bytes(16), 2)
    kek, wrapped = provider.create_epoch(2, context)
    assert provider.kind == "pkcs11"
    assert provider_of(file_only, archive_id, "file").kind == "keyfile"
    assert provider_of(both, archive_id).of_kind("pkcs11").unwrap(wrapped, context).matches(kek)
    ring = Keyring.open(tmp_path / "archive" / "keyring", provider)
    ring.prove()
    ring.close()
