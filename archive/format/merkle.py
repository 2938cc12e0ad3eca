"""The RFC 6962 tree over record headers, kept as a compact frontier: one hash per complete subtree.

Rule: pure. A frontier of n leaves holds at most log2(n)+1 hashes and yields the root at any time (RFC 6962 2.1).
"""

import hashlib

LEAF, NODE = b"\x00", b"\x01"
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(header: bytes) -> bytes:
    """The RFC 6962 2.1 hash of a record header."""
    return hashlib.sha256(LEAF + header).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The RFC 6962 2.1 hash of a node with two children."""
    return hashlib.sha256(NODE + left + right).digest()


class Frontier:
    """The right edge of a growing tree."""

    __slots__ = ("_edge", "size")

    def __init__(self, size: int = 0, edge: list[bytes] | None = None) -> None:
        self.size = size
        self._edge = edge or []

    @property
    def edge(self) -> tuple[bytes, ...]:
        """The roots of the complete subtrees, largest first."""
        return tuple(self._edge)

    def append(self, leaf: bytes, height: int = 0) -> None:
        """Add one leaf hash, or the root of the next complete subtree of 2^height leaves."""
        size, node = self.size >> height, leaf
        while size & 1:
            node = node_hash(self._edge.pop(), node)
            size >>= 1
        self._edge.append(node)
        self.size += 1 << height

    def root(self) -> bytes:
        """The tree head over all leaves so far."""
        if not self._edge:
            return EMPTY_ROOT
        node = self._edge[-1]
        for left in reversed(self._edge[:-1]):
            node = node_hash(left, node)
        return node
