"""One archive's objects at a target: how they are named, and what of them may be believed.

Rule: the only module of the room that makes names. A piece is named by its SHA-256, and compared with it when read.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from coffer.archive.copies.snapshot import Blob, Snapshot, is_id
from coffer.archive.copies.target import MOST_BYTES, Stored, Target
from coffer.keys.buffer import Buffer
from coffer.keys.errors import FormatError, IntegrityError, NotFoundError

__all__ = ["Shelf", "Unusable", "ahead", "archives_at", "find_snapshot"]

T = TypeVar("T")
_END: Final = ".json"
_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class Unusable:
    """A snapshot that cannot be read, and why."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class Shelf:
    """The objects of one archive (its id: 16 bytes) at a target."""

    target: Target
    archive_id: bytes

    def under(self, name: str) -> str:
        """The whole name of what this archive has under `name`."""
        return f"{self.archive_id.hex()}/{name}"

    def piece_name(self, sha256: bytes) -> str:
        """The name of a piece."""
        digits = sha256.hex()
        return self.under(f"pieces/{digits[:2]}/{digits}")

    def snapshot_name(self, snapshot_id: str) -> str:
        """The name of a snapshot's list of parts."""
        return self.under(f"snapshots/{snapshot_id}{_END}")

    def pieces(self) -> dict[bytes, Stored]:
        """All pieces that the target lists, by their SHA-256."""
        found = {}
        for each in self.target.list(self.under("pieces/")):
            digits = each.name.rpartition("/")[2]
            if len(digits) == 64 and each.name == self.piece_name(_hex(digits)):
                found[_hex(digits)] = each
        return found

    def piece(self, sha256: bytes, size: int) -> bytes:
        """The bytes of a piece. Raises NotFoundError, IntegrityError if they are not those that have this hash."""
        data = self.target.get(self.piece_name(sha256), size)
        if len(data) != size or hashlib.sha256(data).digest() != sha256:
            raise IntegrityError(f"a piece at {self.target.name} is not what was stored there: {sha256.hex()}")
        return data

    def read_blob(self, blob: Blob, piece_bytes: int) -> Iterator[bytes]:
        """The bytes of a blob, piece by piece, each compared with its hash. Raises as `piece`."""
        sizes = [min(piece_bytes, blob.size - at) for at in range(0, blob.size, piece_bytes)]
        yield from ahead(self.piece, zip(blob.pieces, sizes, strict=True))

    def put_piece(self, sha256: bytes, data: Buffer) -> None:
        """Store a piece; durable on return."""
        self.target.put(self.piece_name(sha256), data)

    def ids(self) -> list[str]:
        """The ids of all snapshots, oldest first."""
        names = [each.name.rpartition("/")[2] for each in self.target.list(self.under("snapshots/"))]
        return sorted(name.removesuffix(_END) for name in names if name.endswith(_END) and is_id(name[: -len(_END)]))

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """One snapshot. Raises NotFoundError; IntegrityError if what lies there is none, or another one."""
        try:
            data = self.target.get(self.snapshot_name(snapshot_id), MOST_BYTES)
            found = Snapshot.parse(data)
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no snapshot {snapshot_id} at {self.target.name}", hint="coffer backup list shows them"
            ) from error
        except FormatError as error:
            raise FormatError(f"snapshot {snapshot_id} at {self.target.name}: {error}") from error
        if (found.id, found.archive_id) != (snapshot_id, self.archive_id):
            raise IntegrityError(f"snapshot {snapshot_id} at {self.target.name} is another one under its name")
        return found

    def snapshots(self) -> list[Snapshot | Unusable]:
        """All snapshots, oldest first; of one that cannot be read, why."""
        found: list[Snapshot | Unusable] = []
        for each in self.ids():
            try:
                found.append(self.snapshot(each))
            except (IntegrityError, NotFoundError) as error:
                found.append(Unusable(each, str(error)))
        return found

    def usable(self) -> list[Snapshot]:
        """The snapshots that can be read, oldest first."""
        return [each for each in self.snapshots() if isinstance(each, Snapshot)]


def archives_at(target: Target) -> list[bytes]:
    """The ids of the archives that have snapshots at a target."""
    heads = {each.name.partition("/")[0] for each in target.list("") if "/snapshots/" in each.name}
    return sorted(_hex(head) for head in heads if len(head) == 32 and _hex(head))


def find_snapshot(target: Target, wanted: str, archive_id: bytes | None = None) -> tuple[Shelf, Snapshot]:
    """The snapshot with an id, or the newest one for `latest`, of this archive or of the only one there is.

    Raises NotFoundError, also if `latest` could mean several archives; IntegrityError.
    """
    if wanted != "latest" and not is_id(wanted):
        raise NotFoundError("this is no id of a snapshot", hint="coffer backup list shows them; or say latest")
    archives = archives_at(target) if archive_id is None else [archive_id]
    if not archives:
        raise NotFoundError(f"there is no snapshot at {target.name}", hint="coffer backup run makes one")
    if wanted == "latest" and len(archives) > 1:
        raise NotFoundError(f"{target.name} has snapshots of several archives", hint="give the id of the snapshot")
    shelves = [Shelf(target, each) for each in archives]
    for shelf in shelves:
        ids = shelf.ids()
        if ids and (wanted == "latest" or wanted in ids):
            return shelf, shelf.snapshot(ids[-1] if wanted == "latest" else wanted)
    raise NotFoundError(f"there is no snapshot {wanted} at {target.name}", hint="coffer backup list shows them")


def ahead(call: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """The results of a call with each of these arguments, in their order, a few calls at once: they wait for a target
    or a hash.

    Holds no more results than there are threads. Raises what a call raises; the others are then not begun.
    """
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(_THREADS, "coffer-copies")
    try:
        for each in arguments:
            waiting.append(pool.submit(call, *each))
            if len(waiting) == _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _hex(digits: str) -> bytes:
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""
