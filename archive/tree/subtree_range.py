"""A range of the tree: the fewest complete subtrees that cover records [begin, end), independent of earlier records.

Rule: pure. Segments are hashed independently, in any order and process, and their spans are joined to one tree: each
subtree in a span is one of RFC 6962 2.1, whatever is to its left.
"""

import hashlib
from dataclasses import dataclass, field

from coffer.archive.format.merkle import NODE, node_hash

_sha256 = hashlib.sha256


@dataclass(slots=True)
class Span:
    """Grows at its end. `nodes` are (height, hash), in the order of the records below them."""

    begin: int
    end: int
    nodes: list[tuple[int, bytes]] = field(default_factory=list)

    @classmethod
    def at(cls, begin: int) -> "Span":
        """The empty range before record `begin`."""
        return cls(begin, begin)

    def extend(self, leaves: list[bytes]) -> None:
        """Add the leaf hashes of the next records, level by level: about 0.5 us a leaf."""
        row, height, index = leaves, 0, self.end
        left: list[tuple[int, bytes]] = []
        right: list[tuple[int, bytes]] = []
        while row:
            if index & 1:
                left.append((height, row[0]))
                row, index = row[1:], index + 1
            if len(row) & 1:
                right.append((height, row[-1]))
            row = [_sha256(NODE + a + b).digest() for a, b in zip(row[::2], row[1::2], strict=False)]
            height, index = height + 1, index >> 1
        for height, node in left + right[::-1]:
            self._push(height, node)

    def _push(self, height: int, node: bytes) -> None:
        self.end += 1 << height
        # A node with an even end at its height is a right child; its sibling is here unless it lies before `begin`.
        while self.nodes and self.nodes[-1][0] == height and not self.end >> height & 1:
            node = node_hash(self.nodes.pop()[1], node)
            height += 1
        self.nodes.append((height, node))
