"""The configured providers of epoch secrets, and where their passphrase or PIN comes from.

Rule: a passphrase or a PIN comes from the environment or a file, never from the command line or the config file, where
others could read it. Nothing is opened or contacted before the first epoch needs it.
"""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.disk.permissions import read_secret
from coffer.keys.errors import ConfigError, HistoryError, UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory import hardening, locked_pages
from coffer.keys.memory.secret import Secret
from coffer.keys.providers import aws_kms, key_file, pkcs11
from coffer.keys.providers.base import KekProvider
from coffer.keys.providers.pkcs11_token import Token
from coffer.keys.providers.routing import ProviderSet, RetryingProvider, RetryPolicy
from coffer.server.config.providers import AwsKms
from coffer.server.config.settings import Keys

_LONGEST_LINE: Final = 64 << 10
Waiting = Callable[[UnavailableError, float], None]

__all__ = [
    "KINDS",
    "Waiting",
    "guarded",
    "key_file_provider",
    "open_keyring",
    "open_keyring_when_there",
    "passphrase_of",
    "provider_location",
    "provider_of",
    "settings_of",
]

KINDS: Final = {
    "file": key_file.KIND,
    "pkcs11": pkcs11.KIND,
    "aws-kms": aws_kms.KIND,
}  # as configured, as in epoch rows


def provider_of(keys: Keys, archive_id: bytes, current: str = "") -> ProviderSet:
    """Every provider configured for an archive; `current` (default: the configured one) creates new epochs."""
    makers: dict[str, Callable[[], KekProvider]] = {
        key_file.KIND: partial(key_file_provider, keys),
        pkcs11.KIND: partial(_hsm, keys, archive_id),
        aws_kms.KIND: partial(_kms, keys, archive_id),
    }
    return ProviderSet(KINDS[current or keys.provider], makers)


def open_keyring(folder: ArchiveFolder, provider: KekProvider, *, readonly: bool = False) -> Keyring:
    """The keyring of this archive. Raises as `Keyring.open`, and HistoryError for the keyring of another archive."""
    keyring = Keyring.open(folder.keyring, provider, readonly=readonly)
    if keyring.archive_id != folder.archive_id:
        other = keyring.archive_id.hex()
        keyring.close()
        raise HistoryError(
            f"{folder.keyring} is the keyring of another archive, {other}", hint="restore this archive's own keyring"
        )
    return keyring


def open_keyring_when_there(folder: ArchiveFolder, keys: Keys, waiting: Waiting) -> Keyring:
    """The keyring, open for changes, with all configured providers. An unreachable one is retried for as long as the
    configuration says: `waiting` gets the cause and the seconds left at each try. Raises as `open_keyring`.

    The retries end once it is open: from then on callers wait for an answer.
    """
    policy = RetryPolicy(time.monotonic() + keys.wait_seconds, waiting)
    try:
        return open_keyring(folder, RetryingProvider(provider_of(keys, folder.archive_id), policy))
    finally:
        policy.end = 0.0


def provider_location(keys: Keys) -> str:
    """Where the configured provider keeps its secrets, in a few words and without any secret."""
    if keys.provider == "pkcs11":
        return f'HSM token "{keys.pkcs11.token}" of {keys.pkcs11.module}'
    if keys.provider == "aws-kms":
        return f"AWS KMS {keys.aws.region or '(default region)'}"
    return f"key file {keys.key_file}"


def settings_of(keys: Keys) -> dict[str, str]:
    """By kind, every configured provider and where it keeps its secrets: two processes with equal values open the same
    epochs, as far as settings decide."""
    found = {key_file.KIND: f"key file {os.path.realpath(keys.key_file)}"}
    if keys.pkcs11.token:
        found[pkcs11.KIND] = f'HSM token "{keys.pkcs11.token}"'
    if keys.provider == "aws-kms" or keys.aws != AwsKms():
        found[aws_kms.KIND] = f"AWS KMS {keys.aws.region or '(default region)'} {keys.aws.endpoint}".rstrip()
    return found


def guarded() -> str:
    """How keys in the memory of this process are protected, or what the system refused, in a few words."""
    locked_pages.take(1).release()  # before the first key, so that a refusal shows now
    return "; ".join(hardening.refusals()) or "locked, and left out of core dumps"


def key_file_provider(keys: Keys, path: Path | None = None) -> key_file.KeyFileProvider:
    """The provider of the configured key file, or of another one with the same passphrase."""
    return key_file.KeyFileProvider(path or keys.key_file, passphrase_of(keys))


def _hsm(keys: Keys, archive_id: bytes) -> pkcs11.HsmProvider:
    settings = keys.pkcs11
    pin = _source(settings.pin_env, settings.pin_file, "PIN")
    if pin is None:
        raise ConfigError(
            "an epoch of this archive is kept by a pkcs11 provider, which is not configured",
            hint="add [keys.pkcs11] with module, token and pin_env or pin_file to coffer.toml",
        )
    return pkcs11.HsmProvider(archive_id, Token(settings.module, settings.token, pin))


def _kms(keys: Keys, archive_id: bytes) -> aws_kms.KmsProvider:
    settings = keys.aws
    if keys.provider != "aws-kms" and settings == AwsKms():  # the name in a row is no reason to contact AWS
        raise ConfigError(
            "an epoch of this archive is kept by an aws-kms provider, which is not configured",
            hint="add [keys.aws] with its region to coffer.toml",
        )
    client = aws_kms.connect(settings.region, settings.endpoint, settings.timeout_seconds)
    return aws_kms.KmsProvider(archive_id, client, settings.deletion_days)


def passphrase_of(keys: Keys) -> Callable[[], Secret] | None:
    """How to get the configured passphrase, or None if none is configured. The call raises ConfigError."""
    return _source(keys.passphrase_env, keys.passphrase_file, "passphrase")


def _source(variable: str, path: Path | None, what: str) -> Callable[[], Secret] | None:
    if variable:
        return partial(_from_environment, variable, what, os.environ)
    return None if path is None else partial(_from_file, path, what)


def _from_environment(name: str, what: str, environment: Mapping[str, str]) -> Secret:
    text = environment.get(name, "")
    if not text:
        raise ConfigError(f"the environment variable {name} holds no {what}", hint=f"set {name}, then start again")
    return Secret(text.encode())


def _from_file(path: Path, what: str) -> Secret:
    line = read_secret(path, f"{what} file", _LONGEST_LINE).split(b"\n", 1)[0]
    if not line:
        raise ConfigError(f"the {what} file {path} is empty", hint=f"put the {what} into its first line")
    return Secret(line)
