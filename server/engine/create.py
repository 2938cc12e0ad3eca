"""Create an empty archive: folders, key file, keyring, the signed checkpoint of an empty log, the mark outside, an
empty index, and last `archive.json`, which makes it an archive.

Rule: after a stop or a failure at any point the same call resumes. Nothing is ever overwritten: an existing key file
and keyring are used.
"""

import os
from functools import partial

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.archive.tree.checkpoint_history import begin
from coffer.index.index import Index
from coffer.keys.disk import durable
from coffer.keys.errors import ConfigError, IntegrityError
from coffer.keys.keyring import signing_key
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.overview import archive_id_in
from coffer.keys.providers.key_file import generate_keyfile
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.clock.watching import look
from coffer.server.config.settings import Config
from coffer.server.engine.checkpoint_signer import mark_of, new_lineage
from coffer.server.engine.providers import passphrase_of, provider_of
from coffer.server.engine.sealing import rules_of

__all__ = ["create_archive"]


def create_archive(config: Config) -> None:
    """Create an empty archive, its mark outside, and its key file if one is configured and missing; durable on return.

    Raises ConfigError if an archive exists already or its mark has no place, UnavailableError; KeyUnavailableError if a
    keyring exists, as after a stopped call, that the configured provider does not open.
    """
    path = config.archive
    ArchiveFolder.prepare(path)
    if config.keys.provider == "file":
        _provide_key_file(config)
    try:
        begun = archive_id_in(path / "keyring")
    except IntegrityError as error:
        raise ConfigError(
            f"{path} was left by an interrupted init, and its keyring cannot be read",
            hint=f"nothing was ever stored there: remove {path} and start again",
        ) from error
    archive_id = begun or os.urandom(16)
    provider = provider_of(config.keys, archive_id)
    keyring = (
        Keyring.open(path / "keyring", provider) if begun else Keyring.create(path / "keyring", provider, archive_id)
    )
    try:
        look(keyring)
        origin = f"coffer/{archive_id.hex()}"
        signer = signing_key.current(keyring)
        folder = ArchiveFolder(path, archive_id, origin, signer.vkey(origin))
        begin(folder, partial(signer.sign_note, origin), keyring.remember_checkpoint)
        mark = mark_of(folder, keyring, read_checkpoint(folder), 0, new_lineage(keyring))
        MarkFile.of(config, archive_id).begin(mark)
        Index.open(folder.index, keyring, rules_of(config)).close()  # so that a search finds nothing, not no index
        folder.commit()
    finally:
        keyring.close()


def _provide_key_file(config: Config) -> None:
    """Create the key file if there is none; of one that an earlier call left, remove the second name."""
    path = config.keys.key_file
    if path.exists():
        durable.tidy(path)
    else:
        passphrase = passphrase_of(config.keys)
        generate_keyfile(path, passphrase() if passphrase else None)
