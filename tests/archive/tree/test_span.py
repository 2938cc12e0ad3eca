"""Spans of any cut of the tree, joined, are the tree."""

from hashlib import sha256
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.format.merkle import Frontier
from coffer.archive.tree.subtree_range import Span


def leaf(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


@given(st.lists(st.integers(0, 300), max_size=8), st.integers(1, 70))
def test_joined_spans_are_the_tree(cuts: list[int], batch: int) -> None:
    plain, joined = Frontier(), Frontier()
    edges = sorted({0, *cuts})
    for number in range(edges[-1]):
        plain.append(leaf(number))
    for begin, end in pairwise(edges):
        span = Span.at(begin)
        for start in range(begin, end, batch):
            span.extend([leaf(n) for n in range(start, min(start + batch, end))])
        assert (span.begin, span.end) == (begin, end)
        assert len(span.nodes) <= 2 * (end - begin).bit_length()
        for height, node in span.nodes:
            joined.append(node, height)
    assert (joined.size, joined.edge, joined.root()) == (plain.size, plain.edge, plain.root())
