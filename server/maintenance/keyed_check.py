"""Check what only keys can show, which `verify --level decrypt` adds: who signs, and the rows of keyring and index.

Rule: reads only, beside a possible writer; without a key, only accidents are found (`server.maintenance.offline`).
"""

from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.verify.report import Finding
from coffer.index.keyed_check import check_with_key
from coffer.keys.disk import opening
from coffer.keys.errors import CofferError, IntegrityError
from coffer.keys.keyring.keyring import Keyring
from coffer.server.config.settings import Config
from coffer.server.engine.checkpoint_signer import signers_of
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.maintenance.keyring_history import LoggedEvents, contradictions
from coffer.server.maintenance.offline import strange_successor

__all__ = ["inspect_with_keys"]


def inspect_with_keys(config: Config, *, rows: bool) -> list[Finding]:
    """Return what the keyring's signing key contradicts, and, if `rows`, what somebody without a key did to rows of the
    keyring and the index, and how the whole log contradicts the keyring. Raises as `Keyring.open`.

    `rows` only after a look without a key found both readable (`server.maintenance.offline`).
    """
    folder = ArchiveFolder.open(config.archive)
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)
    try:
        strange = strange_successor(folder, keyring)
        found = [*_strange_signer(folder, keyring), *([] if strange is None else [str(strange)])]
        if rows:
            found += [*_altered_rows(folder, keyring), *_unlike_the_log(folder, keyring)]
    finally:
        keyring.close()
    return [Finding(0, 0, None, what) for what in found]


def _strange_signer(folder: ArchiveFolder, keyring: Keyring) -> list[str]:
    """A sentence if the keyring's signing key is none of those that the folder names."""
    try:
        own = {each.vkey(folder.origin) for each in signers_of(keyring)}
        known = read_key_history(folder).vkeys
    except IntegrityError:
        return []  # the verification reports endorsements that cannot be read
    if own & set(known):
        return []
    return [
        f"the keyring's signing key, {min(own)}, is none of those that the folder names: archive.json has {known[0]}"
    ]


def _unlike_the_log(folder: ArchiveFolder, keyring: Keyring) -> list[str]:
    """How holds, requests, epochs and shares differ from what the whole log says of them."""
    try:
        found = contradictions(folder, keyring, LoggedEvents())
    except CofferError:
        return []  # the verification reports a log that cannot be read
    return [f"the keyring: {what} (coffer keys audit)" for what in found]


def _altered_rows(folder: ArchiveFolder, keyring: Keyring) -> list[str]:
    found: list[str] = []
    reader = LogReader(folder)
    try:
        if (what := keyring.complaint()) is not None:
            found.append(f"the keyring: {what}")
        there = opening.exists(folder.index / "data.mdb")
        if there and (what := check_with_key(folder.index, keyring, reader)) is not None:
            found.append(f"the index: {what} (coffer index rebuild creates it anew, and keeps this one in lost+found)")
    except CofferError as error:
        found.append(str(error))
    finally:
        reader.close()
    return found
