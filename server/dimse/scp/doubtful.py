"""Which stored objects may make a peer break the association, and must therefore be sent after all others.

Rule: they are sent nevertheless, as they were received, because many peers take them. The decision uses what is known
without reading an object again: its UID, its length, and whether its header could be read completely on receipt.
"""

import re
from collections.abc import Sequence
from typing import Final, TypeVar

from coffer.server.services.api import Instance

__all__ = ["is_doubtful", "sound_first"]

_UID: Final = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1; leading zeros of a component do no harm
_I = TypeVar("_I", bound=Instance)


def is_doubtful(instance: Instance) -> bool:
    """Whether a peer may be unable to read it: DCMTK aborts on data it cannot parse, and on a UID that is too long."""
    return _doubt(instance) > 0


def sound_first(instances: Sequence[_I]) -> list[_I]:
    """The instances in their order, with the doubtful ones at the end: last those that no toolkit has to accept."""
    return sorted(instances, key=_doubt)


def _doubt(instance: Instance) -> int:
    if not _UID.fullmatch(instance.sop_instance) or instance.length % 2:  # PS3.5 7.1.1: an even number of bytes
        return 2
    return 1 if instance.has_problem else 0
