"""The tree as C2SP tlog-tiles: files of 256 hashes beside the log, so that a proof costs a few small reads.

Rule: tiles hold nothing that the log does not, and are trusted only under a signed root. A missing or truncated tile is
made from the log again: level 0 from record headers, every other level from the one below it.
"""

import hashlib
import re
from collections import OrderedDict
from pathlib import Path
from typing import Final

from coffer.archive.format.merkle import NODE
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.leaves import Leaves
from coffer.keys.disk import opening
from coffer.keys.errors import IntegrityError

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
HASH_BYTES: Final = 32
ALL_LEVELS: Final = 64
MOST_DEEP: Final = 9  # nested folders: tiles/tile/LEVEL, up to five of xNNN for 2^64 records, and NNN.p
_CACHED = 64
_WIDTH: Final = re.compile(r"[1-9][0-9]{0,2}")
_sha256 = hashlib.sha256


def tile_path(level: int, number: int, width: int = WIDTH) -> str:
    """The path of a tile under `tiles/` (C2SP tlog-tiles, "Merkle Tree"): 1234067 is x001/x234/067, .p/W if partial."""
    name, rest = f"{number % 1000:03d}", number // 1000
    while rest:
        name, rest = f"x{rest % 1000:03d}/{name}", rest // 1000
    return f"tile/{level}/{name}" + (f".p/{width}" if width < WIDTH else "")


def top(hashes: bytes) -> bytes:
    """The root over a power of two of concatenated hashes."""
    row = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    while len(row) > 1:
        row = [_sha256(NODE + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=True)]
    return row[0]


class Tiles:
    """The tree over the first `size` records: hashes from tiles if there are any, else from the log. Not thread-safe.

    Tiles of level `distrust` and above are computed, not read. The caller checks the result against a signed root.
    """

    def __init__(
        self, folder: ArchiveFolder, size: int, *, leaves: Leaves | None = None, distrust: int = ALL_LEVELS
    ) -> None:
        self.size = size
        self._root = folder.tiles
        self._leaves = leaves or Leaves(folder)
        self._distrust = distrust
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def at(self, level: int, index: int) -> bytes:
        """The root of the complete subtree over leaves [index << level, (index + 1) << level); see
        `archive.tree.proof`.

        Raises IntegrityError if neither a tile nor the log yields it.
        """
        tile_level, below = divmod(level, HEIGHT)
        number, offset = divmod(index << below, WIDTH)
        hashes = self.tile(tile_level, number)
        return top(hashes[offset * HASH_BYTES : (offset + (1 << below)) * HASH_BYTES])

    def width(self, level: int, number: int) -> int:
        """The number of hashes of this tile in a tree of this size; 0 or less if it has none."""
        return min(WIDTH, (self.size >> HEIGHT * level) - number * WIDTH)

    def levels(self) -> range:
        """The tile levels at which this tree has hashes."""
        return range((self.size.bit_length() + HEIGHT - 1) // HEIGHT)

    def numbers(self, level: int, since: int = 0) -> range:
        """The tiles of a level, without those that are already full in a tree of `since` records."""
        return range(since >> HEIGHT * (level + 1), -(-(self.size >> HEIGHT * level) // WIDTH))

    def path(self, level: int, number: int) -> Path:
        """The file of a tile of this tree."""
        return self._root / tile_path(level, number, self.width(level, number))

    def tile(self, level: int, number: int) -> bytes:
        """The hashes of a tile, as far as this tree has them. Raises the same error as `at`."""
        place = level, number
        if place in self._cache:
            self._cache.move_to_end(place)
            return self._cache[place]
        width = self.width(level, number)
        data = self.stored(level, number) if level < self._distrust else b""
        begin, end = number * WIDTH + len(data) // HASH_BYTES, number * WIDTH + width
        if begin < end:
            data += b"".join(self._made(level, begin, end))
        self._cache[place] = data
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return data

    def _made(self, level: int, begin: int, end: int) -> list[bytes]:
        if level == 0:
            return self._leaves.take(begin, end)
        return [top(self.tile(level - 1, number)) for number in range(begin, end)]

    def stored(self, level: int, number: int) -> bytes:
        """The hashes of a tile that are in files: up to its width, possibly none. Files of a wrong length are ignored.

        A narrower or wider partial tile will do: a concurrent writer replaces them (C2SP tlog-tiles).
        """
        width = self.width(level, number)
        whole = self._root / tile_path(level, number)
        data = _read(whole, WIDTH)
        if data is None:
            partial = whole.with_name(f"{whole.name}.p")
            try:
                widths = sorted({int(name) for name in opening.names(partial) if _WIDTH.fullmatch(name)})
            except (FileNotFoundError, IntegrityError):
                widths = []
            wide = [w for w in widths if w >= width]
            for found in [*wide, *(w for w in reversed(widths) if w < width)]:
                data = _read(partial / str(found), found)
                if data is not None:
                    break
        return (data or b"")[: width * HASH_BYTES]


def _read(path: Path, width: int) -> bytes | None:
    try:
        data = opening.read(path, WIDTH * HASH_BYTES)
    except (FileNotFoundError, NotADirectoryError, IntegrityError):
        return None
    return data if len(data) == width * HASH_BYTES else None
