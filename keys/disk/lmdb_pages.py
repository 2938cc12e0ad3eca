"""Check every page of an LMDB file before LMDB follows it: a bad page reference kills the process that follows it.

Rule: LMDB keeps no checksums, reads through a memory map and trusts the pages; one flipped bit in a length is a bus
error or a failed assertion. So sizes, offsets and page types are cross-checked here with plain reads, in one committed
state that the caller's transaction pins. So is the order of all keys: where all rows are there, but not in order, a
walk finds what a search by key does not. Row contents are not checked: they have sums of their own.
Layout: lmdb 0.9, mdb.c, MDB_page, MDB_node, MDB_db, MDB_meta; integers in native byte order.
"""

from __future__ import annotations

import os
import struct
import sys
from itertools import pairwise
from typing import Final, NamedTuple

import lmdb

from coffer.keys.disk.reading import read_up_to

__all__ = ["require_sound", "states"]

_HEAD: Final = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
_NODE: Final = struct.Struct("=HHHH")  # low and high half of a size, flags, bytes of the key
_TREE: Final = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, branches, leaves, overflows, entries, root
_META: Final = struct.Struct("=IIQQ48s48sQQ")  # magic, version, address, map size, free tree, main tree, last page, id
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_BRANCH, _LEAF, _OVERFLOW, _LEAF2, _SUB = 0x01, 0x02, 0x04, 0x20, 0x40
_DUPSORT: Final = 0x04  # of a tree: the only flag that Coffer's have; others would compare keys otherwise
_KINDS: Final = _BRANCH | _LEAF | _OVERFLOW | _LEAF2 | _SUB
_BIG, _TREE_HERE, _SEVERAL = 0x01, 0x02, 0x04  # node flags: data in overflow pages, a subtree, several values
_ORDER: Final = sys.byteorder
_NOTHING: Final = 2**64 - 1
_FIRST: Final = 2  # pages 0 and 1 are the two metas
_DEEPEST: Final = 32  # the depth of LMDB's cursors
_LONGEST_KEY: Final = 511


class _Tree(NamedTuple):
    flags: int
    depth: int
    entries: int
    root: int

    @classmethod
    def parse(cls, data: bytes) -> _Tree:
        _, flags, depth, _, _, _, entries, root = _TREE.unpack(data)
        return cls(flags, depth, entries, root)


class _Span(NamedTuple):
    """A page, and the bounds of the keys that a search looks for in it: from `low` on, below `high` (None: none)."""

    page: int
    low: bytes = b""
    high: bytes | None = None

    def require_order(self, keys: list[bytes]) -> None:
        """Raise unless these keys ascend, and lie within the bounds."""
        rest = keys if self.high is None else [*keys, self.high]
        if any(a >= b for a, b in pairwise(rest)) or (keys and keys[0] < self.low):
            raise lmdb.CorruptedError(f"the keys of page {self.page} are not in order")


def states(fd: int) -> list[int]:
    """Return the numbers of the transactions to whose states a file's two meta pages lead; none where these are not
    LMDB's. Raises UnreadableError."""
    found, page_bytes = [], 0
    for number in (0, 1):
        data = read_up_to(fd, number * page_bytes + _HEAD.size, _META.size)
        if len(data) != _META.size:
            return []
        magic, version, _, _, free, _, _, written = _META.unpack(data)
        if (magic, version) != (_MAGIC, _VERSION):
            return []
        page_bytes = _TREE.unpack(free)[0]  # LMDB keeps it there
        found.append(written)
    return found


def require_sound(fd: int, page_bytes: int, transaction: int) -> None:
    """Check the state that `transaction` committed, pinned by an open reader, in a file of pages of `page_bytes`.

    Raises lmdb.CorruptedError naming the bad page, UnreadableError, OSError. Takes about 3 s for a gigabyte of small
    rows.
    """
    for number in (0, 1):
        data = read_up_to(fd, number * page_bytes + _HEAD.size, _META.size)
        if len(data) == _META.size:
            magic, _, _, _, free, main, last, written = _META.unpack(data)
            if magic == _MAGIC and written == transaction:
                _PageWalk(fd, page_bytes, last).all(free, main)
                return
    if transaction:
        raise lmdb.CorruptedError("no meta page says where its rows are")


class _PageWalk:
    def __init__(self, fd: int, page_bytes: int, last: int) -> None:
        self._fd = fd
        self._size = page_bytes
        self._last = last
        self._seen: set[int] = set()

    def all(self, free: bytes, main: bytes) -> None:
        if os.fstat(self._fd).st_size < (self._last + 1) * self._size:
            raise lmdb.CorruptedError("the file was truncated")
        self._tree(_Tree.parse(free), is_free=True)
        self._tree(_Tree.parse(main))

    def _tree(self, tree: _Tree, *, is_free: bool = False) -> int:
        """Check a tree. Returns how many rows it has, each value of a key counted."""
        if tree.root == _NOTHING:
            return 0
        if not 1 <= tree.depth <= _DEEPEST:
            raise lmdb.CorruptedError("a tree has an impossible depth")
        if not is_free and tree.flags & ~_DUPSORT:
            raise lmdb.CorruptedError("a tree is in an order that is not Coffer's")
        level, rows = [_Span(tree.root)], 0
        for _ in range(tree.depth - 1):
            level = [below for span in level for below in self._branch(span, is_free=is_free)]
        for span in level:
            rows += self._leaves(span, is_free=is_free)
        if not is_free and rows != tree.entries:
            raise lmdb.CorruptedError("a tree has another number of rows than it says")
        return rows

    def _page(self, number: int, kind: int) -> tuple[bytes, tuple[int, ...]]:
        """Return a page of this kind, and the offsets of its nodes."""
        self._take(number, 1)
        page = read_up_to(self._fd, number * self._size, self._size)
        if len(page) != self._size:
            raise lmdb.CorruptedError(f"page {number} is truncated")
        own, _, flags, _, _ = _HEAD.unpack_from(page)
        if own != number or flags & _KINDS != kind:
            raise lmdb.CorruptedError(f"page {number} has the wrong number or type")
        return page, self._places(page, number)

    def _branch(self, span: _Span, *, is_free: bool) -> list[_Span]:
        """Check a page of references. Returns its child pages; the key of the first one counts for nothing."""
        page, places = self._page(span.page, _BRANCH)
        if len(places) < 2 and not is_free:
            raise lmdb.CorruptedError(f"page {span.page} has fewer than two children")
        children = [self._child(page, span.page, at) for at in places]
        if is_free:
            return [_Span(child) for child, _ in children]
        keys = [key for _, key in children[1:]]
        span.require_order(keys)
        bounds = pairwise([span.low, *keys, span.high])
        return [_Span(child, low or b"", high) for (child, _), (low, high) in zip(children, bounds, strict=True)]

    def _leaves(self, span: _Span, *, is_free: bool) -> int:
        """Check a page of rows. Returns their number."""
        page, places = self._page(span.page, _LEAF)
        rows = sum(self._leaf(page, span.page, at, is_free=is_free) for at in places)
        if not is_free:
            span.require_order([_key(page, at) for at in places])
        return rows

    def _take(self, number: int, count: int) -> None:
        """Mark pages as used. A page reached twice is no tree, and a walk of it might never end."""
        if not (number >= _FIRST and number + count - 1 <= self._last):
            raise lmdb.CorruptedError(f"there is no page {number}")
        pages = range(number, number + count)
        if not self._seen.isdisjoint(pages):
            raise lmdb.CorruptedError(f"page {number} is used twice")
        self._seen.update(pages)

    def _places(self, page: bytes, number: int) -> tuple[int, ...]:
        """Return the offsets of the nodes in a page or sub-page."""
        _, _, _, lower, upper = _HEAD.unpack_from(page)
        count = (lower - _HEAD.size) // 2
        if lower % 2 or not _HEAD.size <= lower <= upper <= len(page):
            raise lmdb.CorruptedError(f"page {number} has impossible bounds")
        places: tuple[int, ...] = struct.unpack_from(f"={count}H", page, _HEAD.size)
        if any(at % 2 or not upper <= at <= len(page) - _NODE.size for at in places):
            raise lmdb.CorruptedError(f"a node of page {number} lies outside it")
        return places

    def _child(self, page: bytes, number: int, at: int) -> tuple[int, bytes]:
        low, high, top, key = _NODE.unpack_from(page, at)
        if at + _NODE.size + key > len(page) or key > _LONGEST_KEY:
            raise lmdb.CorruptedError(f"a key of page {number} lies outside it")
        return low | high << 16 | top << 32, _key(page, at)

    def _leaf(self, page: bytes, number: int, at: int, *, is_free: bool) -> int:
        """Check a row. Returns the number of its values."""
        low, high, flags, key = _NODE.unpack_from(page, at)
        size, start = low | high << 16, at + _NODE.size + key
        stop = start + (8 if flags & _BIG else size)
        if stop > len(page) or key > _LONGEST_KEY:
            raise lmdb.CorruptedError(f"a row of page {number} lies outside it")
        data = page[start:stop]
        if flags & _BIG:
            data = self._overflow(int.from_bytes(data, _ORDER), size, whole=is_free)
        if is_free:
            self._free(data, number, key)
        elif flags & _TREE_HERE:
            if size != _TREE.size:
                raise lmdb.CorruptedError(f"a subtree in page {number} is truncated")
            rows = self._tree(_Tree.parse(data))
            return rows if flags & _SEVERAL else 1
        elif flags & _SEVERAL:
            return self._inside(data, number)
        return 1

    def _inside(self, page: bytes, number: int) -> int:
        """Check the values of one key, which lie in a sub-page inside the node. Returns their number."""
        if len(page) < _HEAD.size or _HEAD.unpack_from(page)[2] & (_LEAF | _LEAF2) != _LEAF:
            raise lmdb.CorruptedError(f"the values of a key of page {number} are truncated")
        places = self._places(page, number)
        for at in places:
            low, high, flags, key = _NODE.unpack_from(page, at)
            if flags or at + _NODE.size + key + (low | high << 16) > len(page):
                raise lmdb.CorruptedError(f"a value of a key of page {number} lies outside it")
        _Span(number).require_order([_key(page, at) for at in places])
        return len(places)

    def _overflow(self, number: int, size: int, *, whole: bool) -> bytes:
        """Check a value in overflow pages. Returns its bytes where `whole`."""
        head = read_up_to(self._fd, number * self._size, _HEAD.size) if number <= self._last else b""
        if len(head) != _HEAD.size:
            raise lmdb.CorruptedError(f"there is no page {number}")
        own, _, flags, low, high = _HEAD.unpack(head)
        count = -(-(_HEAD.size + size) // self._size)
        if own != number or flags & _KINDS != _OVERFLOW or low | high << 16 < count:
            raise lmdb.CorruptedError(f"page {number} has the wrong number or type")
        self._take(number, low | high << 16)
        return read_up_to(self._fd, number * self._size + _HEAD.size, size) if whole else b""

    def _free(self, data: bytes, number: int, key: int) -> None:
        """Check a list of free pages: the count, then the page numbers, descending."""
        count = int.from_bytes(data[:8], _ORDER)
        if key != 8 or len(data) < 8 * (count + 1):
            raise lmdb.CorruptedError(f"a list of free pages in page {number} is truncated")
        pages = struct.unpack_from(f"={count}Q", data, 8)
        if any(not _FIRST <= page <= self._last for page in pages):
            raise lmdb.CorruptedError(f"a list of free pages in page {number} names pages that do not exist")


def _key(page: bytes, at: int) -> bytes:
    """Return the key of a node whose bounds were checked."""
    return page[at + _NODE.size : at + _NODE.size + _NODE.unpack_from(page, at)[3]]
