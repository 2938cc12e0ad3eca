"""The first and the last bytes of a segment, from the chain that it begins behind or ends with. Pure."""

from collections.abc import Sequence

from coffer.archive.format.chain import Chain
from coffer.archive.format.segment import Footer, SegmentHeader

__all__ = ["footer_of", "header_of"]


def header_of(archive_id: bytes, number: int, chain: Chain, epoch: int) -> bytes:
    """The header of a segment that begins behind this chain."""
    return SegmentHeader(archive_id, number, chain.next_seq, chain.head, 0, epoch).serialize()


def footer_of(chain: Chain, offsets: Sequence[int]) -> bytes:
    """The footer of a segment whose records are at these offsets and end with this chain."""
    return Footer(tuple(offsets), chain.head, chain.tree.size, chain.tree.edge, chain.order.time_ms).serialize()
