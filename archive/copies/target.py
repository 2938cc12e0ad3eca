"""A place that keeps copies: whole objects under names, as a folder or an object store has them.

Rule: nothing relies on a conditional write, because some stores accept one and ignore it. A name is written with one
content only, or by one process only; what makes other objects count is written last. What is read is not trusted.
"""

import re
from typing import Final, NamedTuple, Protocol

from coffer.keys.buffer import Buffer
from coffer.keys.errors import InputError

__all__ = ["MOST_BYTES", "Stored", "Target", "require_name"]

MOST_BYTES: Final = 128 << 20  # of one object: a list of pieces for about 30 TB
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,79}(/[a-z0-9][a-z0-9.-]{0,79}){0,5}")


class Stored(NamedTuple):
    """An object at a target: its name, its size in bytes, and when the target stored it, by the target's own clock, in
    milliseconds since 1970. Times of one target can be compared with each other, and with nothing else."""

    name: str
    size: int
    stored_ms: int


class Target(Protocol):
    """Objects under names of lower-case letters, digits, `.` and `-`, in levels parted by `/`. Thread-safe.

    Every method raises UnavailableError where the target cannot be reached or refuses, and may then be called again:
    a `put` whose answer was lost may have had its effect, and has the same if it is repeated.
    """

    @property
    def name(self) -> str:
        """The target as people know it; it holds no password."""
        ...

    def put(self, name: str, data: Buffer) -> None:
        """Store an object, or put it in the place of the one under this name. On return it is durable. Readers see the
        old content or the new one, whole."""
        ...

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """A whole object. Raises NotFoundError; IntegrityError, unread, if it is larger than `most` bytes."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Exactly the bytes [offset, offset + length) of an object. Raises NotFoundError, IntegrityError if it is
        shorter."""
        ...

    def list(self, prefix: str) -> "list[Stored]":
        """The objects whose names begin with `prefix`, sorted by name; what was put before is among them. Names that no
        `put` accepts are left out. An empty list if there is none."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object, which may be absent; durable on return. Raises UnavailableError if the target still keeps
        it, as under an object lock."""
        ...


def require_name(name: str) -> str:
    """The name, if it is one. Raises InputError."""
    if not is_name(name):
        raise InputError("this is no name of an object at a target")
    return name


def is_name(name: str) -> bool:
    """Whether an object can have this name: no part of it leads out of the target."""
    return _NAME.fullmatch(name) is not None
