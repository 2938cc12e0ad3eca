"""Check the rows of keyring and index with the keys of their sums: what `verify --level decrypt` adds.

Rule: reads only, beside a possible writer; without a key, only accidents are found (`server.maintenance.offline`).
"""

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.report import Finding
from coffer.index.keyed_check import check_with_key
from coffer.keys.disk import opening
from coffer.keys.errors import CofferError
from coffer.server.config.settings import Config
from coffer.server.engine.providers import open_keyring, provider_of

__all__ = ["inspect_with_keys"]


def inspect_with_keys(config: Config) -> list[Finding]:
    """Return what somebody without a key did to rows of the keyring and the index. Raises as `Keyring.open`.

    Only after a look without a key found both readable (`server.maintenance.offline`).
    """
    folder = ArchiveFolder.open(config.archive)
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)
    found: list[str] = []
    try:
        if (what := keyring.complaint()) is not None:
            found.append(f"the keyring: {what}")
        if opening.exists(folder.index / "data.mdb") and (what := check_with_key(folder.index, keyring)) is not None:
            found.append(f"the index: {what} (keep a copy of it; coffer index rebuild creates it anew)")
    except CofferError as error:
        found.append(str(error))
    finally:
        keyring.close()
    return [Finding(0, 0, None, what) for what in found]
