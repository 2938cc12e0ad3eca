"""Keep the register of copies in step with the copies of the keyring that backups made.

Rule: a copy of a backup is in the register from when it is first seen until it is seen to be gone; its planned end
removes nothing. A backup opens no key and cannot register what it makes, so whoever ends an erasure looks first.
"""

from typing import Final

from coffer.server.access.principal import Principal
from coffer.server.backup.copies import copies_made, kept_days
from coffer.server.backup.targets import open_target
from coffer.server.copies.register import copies
from coffer.server.engine.archive import KeyAdminArchive
from coffer.server.keyops.copy_register import CopyRegister

__all__ = ["follow_backups"]

_NOWHERE: Final = frozenset({"", "none"})


def follow_backups(archive: KeyAdminArchive) -> None:
    """Register the copies at the configured target, and report those that are gone; durable on return.

    Raises UnavailableError if the target cannot be asked: then nobody knows which copies there are.
    """
    config, by = archive.config, Principal.service()
    if config.backup.keys in _NOWHERE:
        return
    target = open_target(config.backup.keys)
    there = {each.id: each for each in copies_made([target], archive.folder.archive_id, kept_days(config))}
    known = {each.backup: own for own, each in copies(archive.keyring) if each.backup and each.place == target.name}
    register = CopyRegister(archive)
    for own in sorted(there.keys() - known.keys()):
        register.add_backup(there[own], by)
    for own in sorted(known.keys() - there.keys()):
        register.report_gone(known[own], "it is no longer at the target", by)
