"""The tree against RFC 6962's known roots and a naive implementation."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.format.merkle import EMPTY_ROOT, Frontier, leaf_hash

LEAVES = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")] + [
    bytes(range(0x60, 0x70))
]
# The roots that Certificate Transparency's reference tests give for these leaves.
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive(leaves: list[bytes]) -> bytes:
    """RFC 6962 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\1" + naive(leaves[:k]) + naive(leaves[k:])).digest()


@pytest.mark.parametrize("count", range(9))
def test_known_roots(count: int) -> None:
    tree = Frontier()
    for leaf in LEAVES[:count]:
        tree.append(leaf_hash(leaf))
    assert tree.root().hex() == ROOTS[count]
    assert tree.size == count


def test_the_empty_root_is_the_empty_hash() -> None:
    assert Frontier().root() == EMPTY_ROOT == naive([])


@given(st.lists(st.binary(max_size=8), max_size=70), st.integers(0, 70))
def test_as_the_naive_tree_also_when_resumed_half_way(leaves: list[bytes], half: int) -> None:
    tree = Frontier()
    for n, leaf in enumerate(leaves):
        if n == half:
            tree = Frontier(tree.size, list(tree.edge))
        tree.append(leaf_hash(leaf))
        assert len(tree.edge) == tree.size.bit_count()
    assert tree.root() == naive(leaves)
