"""Key shares as files: write all of a group or none, read them back, and give a lost archive a key file again.

Rule: shares never stand in the archive folder. They are written into a folder of their own that appears whole.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from archive.folder import ArchiveFolder
from keys import durable
from keys.errors import ConfigError, FormatError, InputError
from keys.keyfile import generate_keyfile
from keys.keyring import clock_ms
from keys.provider import KekProvider
from keys.recovery import Proof, Recovery
from keys.shares import Recovered, Share, combine
from keys.sharetext import file_name, parse, render
from server.config import Config
from server.custody import key_file_provider, open_keyring, passphrase_of, provider_of

__all__ = ["drill", "read_shares", "recover", "split_key"]

_LONGEST_FILE = 64 << 10


def split_key(config: Config, threshold: int, count: int, folder: Path) -> list[tuple[Path, Share]]:
    """Write shares of the current epoch's key into a new `folder`, mode 0600; durable on return, all or none.

    Works beside a running server. Raises ConfigError where the folder exists or is inside the archive, InputError for
    numbers that cannot be, and as `Keyring.open`.
    """
    archive = ArchiveFolder.open(config.archive)
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  the link's own name is meant
    if folder.resolve().is_relative_to(config.archive.resolve()):
        raise ConfigError(f"{folder} is inside the archive", hint="choose a folder that no backup of the archive takes")
    if os.path.lexists(folder):
        raise ConfigError(f"{folder} is there already", hint="choose a new folder: shares of two groups must not mix")
    keyring = open_keyring(archive, provider_of(config.keys, archive.archive_id))
    try:
        shares = keyring.divide(threshold, count)
        fresh = folder.with_name(f".{folder.name}.new")
        durable.discard_folder(fresh)  # of a run that was cut short: those shares were never handed out
        durable.make_folder(fresh, 0o700)
        for share in shares:
            durable.write_new(fresh / file_name(share), render(share).encode(), 0o600)
        durable.move(fresh, folder)
        keyring.remember_shares(shares[0].of)
    finally:
        keyring.close()
    return [(folder / file_name(share), share) for share in shares]


def read_shares(paths: Sequence[Path]) -> Recovered:
    """Read shares and put them together. Raises InputError, naming the file and what is wrong with it."""
    shares: dict[str, Share] = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                text = file.read(_LONGEST_FILE).decode("utf-8", "replace")
        except OSError as error:
            raise InputError(f"cannot read the share {path}: {error.strerror}", hint="check the path") from error
        shares[str(path)] = parse(text, str(path))
    return combine(shares)


def drill(config: Config, recovered: Recovered, progress: Callable[[], None]) -> Proof:
    """Open with the recovered key everything that hangs on its epoch; changes nothing, needs no provider."""
    return Recovery(ArchiveFolder.open(config.archive).keyring, recovered).prove(progress)


def recover(config: Config, recovered: Recovered, key_file: Path, progress: Callable[[], None]) -> Proof:
    """Prove the key, then let `key_file`, made where there is none, keep its epoch; durable on return.

    May be repeated, and works beside a running server. Raises ConfigError for a key file inside the archive,
    LockedError while somebody else changes the keys.
    """
    archive = ArchiveFolder.open(config.archive)
    if key_file.resolve().is_relative_to(config.archive.resolve()):
        raise ConfigError(f"{key_file} is inside the archive", hint="put it elsewhere, best on another volume")
    recovery = Recovery(archive.keyring, recovered)
    proof = recovery.prove(progress)
    keeper = key_file_provider(config.keys, key_file)
    if key_file.exists():
        _require_usable(keeper, key_file)
    else:
        passphrase = passphrase_of(config.keys)
        generate_keyfile(key_file, passphrase() if passphrase else None, epoch=recovered.of.epoch)
    recovery.move(keeper, "coffer keys recover", clock_ms())
    return proof


def _require_usable(keeper: KekProvider, key_file: Path) -> None:
    try:
        keeper.health()
    except FormatError as error:
        raise ConfigError(
            f"{key_file} is there already and cannot be used: {error}",
            hint="move it away, or name another one with --key-file",
        ) from error
