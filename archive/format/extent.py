"""How far the log reaches at a checkpoint: which segments, and how many bytes of each.

Rule: believes headers and footers only to find the place; whoever takes the bytes has them verified.
"""

from dataclasses import dataclass
from typing import Final

from coffer.archive.format import segment
from coffer.archive.format.chain import pass_over, read_footer, read_segment_header
from coffer.archive.store.segment_store import LOG, SegmentStore, segment_numbers
from coffer.archive.store.source import Source
from coffer.keys.errors import IntegrityError

__all__ = ["END_BYTES", "Extent", "extents"]

END_BYTES: Final = segment.FOOTER_TAIL.size  # of a footer: its length, its SHA-256 and its end magic


@dataclass(frozen=True, slots=True)
class Extent:
    """A segment's number, how many of its bytes belong to the log at the checkpoint, and the last 44 of them if a
    footer ends there (`b""`: none, as of the last segment)."""

    number: int
    size: int
    end: bytes


def extents(store: SegmentStore, size: int) -> list[Extent]:
    """The segments that hold the log's first `size` records, in order, beside a writer.

    Raises IntegrityError if the log does not have so many, UnreadableError.
    """
    numbers = segment_numbers(store)
    while numbers:
        with store.open(LOG, numbers[-1]) as source:
            if read_segment_header(source).first_seq < size:
                last = _cut(source, numbers[-1], size)
                break
        numbers.pop()
    else:
        if size:
            raise IntegrityError("the log has no segment", hint="coffer recover show lists the remedies")
        return []
    return [*(_whole(store, number) for number in numbers[:-1]), last]


def _whole(store: SegmentStore, number: int) -> Extent:
    with store.open(LOG, number) as source:
        size = source.size
        end = source.read(size - END_BYTES, END_BYTES) if size > END_BYTES else b""
    if len(end) != END_BYTES or segment.footer_length(end) is None:
        raise IntegrityError(
            f"segment {number} has no footer",
            hint="coffer verify says what is damaged, coffer repair --from COPY mends it",
        )
    return Extent(number, size, end)


def _cut(source: Source, number: int, size: int) -> Extent:
    whole = source.size
    sealed = read_footer(source, whole)
    if sealed is not None and sealed[0].tree_size == size:
        return Extent(number, whole, source.read(whole - END_BYTES, END_BYTES))
    stop = whole if sealed is None else sealed[1]
    end = pass_over(source, segment.HEADER.size, stop, size)
    return Extent(number, end, b"")
