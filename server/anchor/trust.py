"""What a verification may trust because it did not come from the archive folder, and what contradicts it.

Rule: every key from outside must be one of the archive's: the first, or one that its endorsements lead to. The first
source in the list is named as the one that was used: what a person gave, what is configured, what the mark holds.
"""

from dataclasses import dataclass
from typing import Self

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.tree.mark import Mark
from coffer.keys.errors import IntegrityError
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.config.settings import Config

__all__ = ["Outside", "OutsideKey"]


@dataclass(frozen=True, slots=True)
class OutsideKey:
    """A C2SP verifier key that does not come from the archive folder, and where it comes from."""

    vkey: str
    source: str


@dataclass(frozen=True, slots=True)
class Outside:
    """The verifier keys from outside, the archive's mark if there is one, and what is wrong with that."""

    keys: tuple[OutsideKey, ...]
    mark: Mark | None
    concerns: tuple[str, ...]

    @classmethod
    def of(cls, config: Config, folder: ArchiveFolder, given: str = "") -> Self:
        """What is known of this archive; `given` is a verifier key that the caller brought, if any."""
        file = MarkFile.of(config, folder.archive_id)
        concerns, mark = file.concerns(), file.find()
        known = ((given, "--vkey"), (config.integrity.vkey, "integrity.vkey"), (mark.vkey if mark else "", "the mark"))
        sources = {vkey: source for vkey, source in reversed(known) if vkey}  # of one key, the first source counts
        keys = (OutsideKey(vkey, source) for vkey, source in known if sources.get(vkey) == source)
        return cls(tuple(keys), mark, tuple(concerns))

    def contradictions(self, folder: ArchiveFolder) -> list[str]:
        """A sentence for each key that is none of the archive's, with both keys."""
        try:
            own = read_key_history(folder).vkeys
        except IntegrityError:  # the verification reports it
            own = (folder.vkey,)
        return [
            f"the verifier key of {each.source}, {each.vkey}, is none of this archive's: archive.json has {folder.vkey}"
            for each in self.keys
            if each.vkey not in own
        ]
