"""Make an empty archive: folders, key file, keyring, and last `archive.json`, which makes it one.

Rule: a stop or a failure at any point leaves what the same call goes on with. Nothing is ever made over: a key file and
a keyring that are there are used.
"""

import os

from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.disk import durable
from coffer.keys.errors import ConfigError, IntegrityError
from coffer.keys.keyring import signing_key
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.overview import archive_id_in
from coffer.keys.providers.key_file import generate_keyfile
from coffer.server.config.settings import Config
from coffer.server.engine.providers import passphrase_of, provider_of

__all__ = ["create_archive"]


def create_archive(config: Config) -> None:
    """Make an empty archive, and its key file where it has one and there is none; both durable on return.

    Raises ConfigError where an archive is already, UnavailableError; KeyUnavailableError where a keyring is there, as
    of a call that was stopped, that the configured provider does not open.
    """
    path = config.archive
    ArchiveFolder.prepare(path)
    if config.keys.provider == "file":
        _provide_key_file(config)
    try:
        begun = archive_id_in(path / "keyring")
    except IntegrityError as error:
        raise ConfigError(
            f"{path} is what a stopped init left, and its keyring cannot be read",
            hint=f"nothing was ever stored there: remove {path} and start again",
        ) from error
    archive_id = begun or os.urandom(16)
    provider = provider_of(config.keys, archive_id)
    keyring = (
        Keyring.open(path / "keyring", provider) if begun else Keyring.create(path / "keyring", provider, archive_id)
    )
    try:
        origin = f"coffer/{archive_id.hex()}"
        ArchiveFolder(path, archive_id, origin, signing_key.current(keyring).vkey(origin)).commit()
    finally:
        keyring.close()


def _provide_key_file(config: Config) -> None:
    """Make the key file where there is none; of one that an earlier call left, its second name goes."""
    path = config.keys.key_file
    if path.exists():
        durable.tidy(path)
    else:
        passphrase = passphrase_of(config.keys)
        generate_keyfile(path, passphrase() if passphrase else None)
