"""What the tests of tiles and of the checkpoint history share: archives that grow, and the tree they must have."""

from hashlib import sha256

from coffer.archive.format.merkle import leaf_hash
from coffer.archive.reader import LogReader
from coffer.archive.tree.tiles import tile_path
from tests.archive.conftest import SmallArchive, entry


def grow(archive: SmallArchive, *sizes: int, first: int = 0, segment_bytes: int = 1 << 30) -> None:
    """One opening; after each of `sizes` records in all, a checkpoint."""
    log = archive.writer(segment_bytes=segment_bytes)
    for size in sizes:
        log.append([entry(n + first, 0) for n in range(log.next_seq, size)])
        log.checkpoint(archive.sign)
    log.close()


def leaves_of(archive: SmallArchive) -> list[bytes]:
    """Leaf hashes, read by the other way into the log."""
    reader = LogReader(archive.folder)
    found = [leaf_hash(header.serialize()) for _, header in reader.records()]
    reader.close()
    return found


def expected(leaves: list[bytes]) -> dict[str, bytes]:
    """Every tile of a tree, by the text of C2SP tlog-tiles: 256 hashes a tile, partial ones at the right edge only."""
    files: dict[str, bytes] = {}
    row, level = leaves, 0
    while row:
        for number in range(-(-len(row) // 256)):
            part = row[256 * number : 256 * number + 256]
            files[tile_path(level, number, len(part))] = b"".join(part)
        whole = [row[at : at + 256] for at in range(0, len(row) - 255, 256)]
        row, level = [_pairwise(part) for part in whole], level + 1
    return files


def _pairwise(row: list[bytes]) -> bytes:
    while len(row) > 1:
        row = [sha256(b"\1" + row[at] + row[at + 1]).digest() for at in range(0, len(row), 2)]
    return row[0]


def tiles_of(archive: SmallArchive) -> dict[str, bytes]:
    """What lies under tiles/."""
    top = archive.folder.tiles
    return {str(p.relative_to(top)): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}


def whats(archive: SmallArchive) -> list[str]:
    return [finding.what for finding in archive.findings()]
