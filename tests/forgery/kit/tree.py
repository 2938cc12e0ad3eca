"""The Merkle tree of RFC 6962 2.1 over leaf hashes, its complete subtrees, and its tiles (archive/FORMAT.md)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

WIDTH = 256


def leaf(header: bytes) -> bytes:
    """The leaf hash of a record, from its 160 header bytes."""
    return sha256(b"\0" + header).digest()


def edge(leaves: Sequence[bytes]) -> list[bytes]:
    """The roots of the complete subtrees that the tree consists of, largest first."""
    found, at = [], 0
    for height in reversed(range(len(leaves).bit_length())):
        if len(leaves) >> height & 1:
            found.append(_complete(leaves[at : at + (1 << height)]))
            at += 1 << height
    return found


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over these leaves; of none, SHA-256 of nothing."""
    nodes = edge(leaves)
    if not nodes:
        return sha256(b"").digest()
    found = nodes[-1]
    for node in reversed(nodes[:-1]):
        found = sha256(b"\1" + node + found).digest()
    return found


def tiles(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """Every tile of the tree, by its path below the archive folder."""
    found, level, hashes = {}, 0, list(leaves)
    while hashes:
        for at in range(0, len(hashes), WIDTH):
            part = hashes[at : at + WIDTH]
            number = at // WIDTH
            name = "/".join(f"x{each:03}" for each in _groups(number)[:-1]) + f"/{number % 1000:03}"
            partial = "" if len(part) == WIDTH else f".p/{len(part)}"
            found[f"tiles/tile/{level}/{name.lstrip('/')}{partial}"] = b"".join(part)
        whole = len(hashes) // WIDTH
        hashes = [_complete(hashes[n * WIDTH : (n + 1) * WIDTH]) for n in range(whole)]
        level += 1
    return found


def _groups(number: int) -> list[int]:
    groups = [number % 1000]
    while number := number // 1000:
        groups.insert(0, number % 1000)
    return groups


def _complete(leaves: Sequence[bytes]) -> bytes:
    nodes = list(leaves)
    while len(nodes) > 1:
        nodes = [sha256(b"\1" + nodes[at] + nodes[at + 1]).digest() for at in range(0, len(nodes), 2)]
    return nodes[0]
