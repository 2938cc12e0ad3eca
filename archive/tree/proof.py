"""RFC 6962 proofs: that a record is in the tree, and that one tree is a prefix of another.

Rule: pure. Provers call `at(level, index)` for the root of the complete subtree over leaves [index << level,
(index + 1) << level), at most log2(size) + 1 times; verifiers need nothing but their arguments.
"""

from collections.abc import Callable, Sequence

from coffer.archive.format.merkle import EMPTY_ROOT, node_hash

HashAt = Callable[[int, int], bytes]


def root(size: int, at: HashAt) -> bytes:
    """The tree head over the first `size` leaves (RFC 6962 2.1)."""
    return _head(0, size, at) if size else EMPTY_ROOT


def inclusion(index: int, size: int, at: HashAt) -> list[bytes]:
    """PATH(index, D[size]), from the leaf up (RFC 6962 2.1.1). Raises ValueError unless 0 <= index < size."""
    if not 0 <= index < size:
        raise ValueError("the leaf is not in the tree")
    begin, end, path = 0, size, list[bytes]()
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_head(middle, end, at))
            end = middle
        else:
            path.append(_head(begin, middle, at))
            begin = middle
    return path[::-1]


def consistency(old: int, new: int, at: HashAt) -> list[bytes]:
    """PROOF(old, D[new]) (RFC 6962 2.1.2); empty for equal sizes and for old = 0. Raises ValueError for old > new."""
    if not 0 <= old <= new:
        raise ValueError("the older tree is the larger one")
    if old in {0, new}:
        return []
    begin, end, is_prefix, path = 0, new, True, list[bytes]()
    while end != old:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(_head(middle, end, at))
            end = middle
        else:
            path.append(_head(begin, middle, at))
            begin, is_prefix = middle, False
    if not is_prefix:
        path.append(_head(begin, end, at))
    return path[::-1]


def includes(leaf: bytes, index: int, size: int, path: Sequence[bytes], head: bytes) -> bool:
    """Whether `path` proves that `leaf` is leaf `index` of the tree with `size` leaves and root `head` (RFC 9162
    2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, node = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            node = node_hash(step, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, step)
        place, last = place >> 1, last >> 1
    return last == 0 and node == head


def extends(old: int, old_head: bytes, new: int, new_head: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` proves that the tree `old_head` is a prefix of the tree `new_head` (RFC 9162 2.1.4.2).

    A tree of size 0 is a prefix of every tree: only its head, that of the empty tree, has to be right.
    """
    if old == 0 or old >= new:
        heads_agree = old_head == (EMPTY_ROOT if old == 0 else new_head)
        return old <= new and heads_agree and not path
    steps = list(path)
    if old & (old - 1) == 0:
        steps.insert(0, old_head)
    if not steps:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, step)
        place, last = place >> 1, last >> 1
    return last == 0 and before == old_head and after == new_head


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _head(begin: int, end: int, at: HashAt) -> bytes:
    """MTH(D[begin:end]); `begin` is a multiple of every power of two up to the first split, as in the RFC."""
    count = end - begin
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return at(level, begin >> level)
    middle = begin + _split(count)
    return node_hash(_head(begin, middle, at), _head(middle, end, at))
