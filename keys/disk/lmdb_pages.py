"""Follow every page of an LMDB file before LMDB does: one that leads nowhere kills the process that follows it.

Rule: LMDB keeps no checksums, reads through a memory map and believes what pages say of themselves; one flipped bit in
a length is a bus error or an assertion. So sizes, places and kinds are held against each other here, by plain reads, of
one committed state that the caller's transaction keeps. What rows say is not looked at: sums of their own tell that.
Layout: lmdb 0.9, mdb.c, MDB_page, MDB_node, MDB_db, MDB_meta; numbers in the machine's order.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Final, NamedTuple

import lmdb

from coffer.keys.disk.reading import read_up_to

__all__ = ["require_sound"]

_HEAD: Final = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
_NODE: Final = struct.Struct("=HHHH")  # low and high half of a size, flags, bytes of the key
_TREE: Final = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, branches, leaves, overflows, entries, root
_META: Final = struct.Struct("=IIQQ48s48sQQ")  # magic, version, address, map size, free tree, main tree, last page, id
_MAGIC: Final = 0xBEEFC0DE
_BRANCH, _LEAF, _OVERFLOW, _LEAF2, _SUB = 0x01, 0x02, 0x04, 0x20, 0x40
_KINDS: Final = _BRANCH | _LEAF | _OVERFLOW | _LEAF2 | _SUB
_BIG, _TREE_HERE, _SEVERAL = 0x01, 0x02, 0x04  # of a node: data in pages of its own, a tree, several values
_ORDER: Final = sys.byteorder
_NOTHING: Final = 2**64 - 1
_FIRST: Final = 2  # pages 0 and 1 are the two metas
_DEEPEST: Final = 32  # as LMDB's cursors
_LONGEST_KEY: Final = 511


class _Tree(NamedTuple):
    flags: int
    depth: int
    root: int

    @classmethod
    def parse(cls, data: bytes) -> _Tree:
        _, flags, depth, _, _, _, _, root = _TREE.unpack(data)
        return cls(flags, depth, root)


def require_sound(fd: int, page_bytes: int, transaction: int) -> None:
    """Check the state that `transaction` committed, which a reader holds, in a file of pages of `page_bytes`.

    Raises lmdb.CorruptedError, saying which page is wrong. UnreadableError, OSError. Costs about 3 s for a
    gigabyte of small rows.
    """
    for number in (0, 1):
        data = read_up_to(fd, number * page_bytes + _HEAD.size, _META.size)
        if len(data) == _META.size:
            magic, _, _, _, free, main, last, written = _META.unpack(data)
            if magic == _MAGIC and written == transaction:
                _Walk(fd, page_bytes, last).all(free, main)
                return
    if transaction:
        raise lmdb.CorruptedError("no page tells where its rows are")


class _Walk:
    def __init__(self, fd: int, page_bytes: int, last: int) -> None:
        self._fd = fd
        self._size = page_bytes
        self._last = last
        self._seen: set[int] = set()

    def all(self, free: bytes, main: bytes) -> None:
        if os.fstat(self._fd).st_size < (self._last + 1) * self._size:
            raise lmdb.CorruptedError("the file was cut")
        self._tree(_Tree.parse(free), is_free=True)
        self._tree(_Tree.parse(main))

    def _tree(self, tree: _Tree, *, is_free: bool = False) -> None:
        if tree.root == _NOTHING:
            return
        if not 1 <= tree.depth <= _DEEPEST:
            raise lmdb.CorruptedError("a tree has no depth that one can have")
        level = [tree.root]
        for left in range(tree.depth, 0, -1):
            level = [below for number in level for below in self._page(number, left > 1, is_free=is_free)]

    def _page(self, number: int, is_branch: bool, *, is_free: bool) -> list[int]:
        """Check a page and what hangs on it; the pages below it."""
        self._take(number, 1)
        page = read_up_to(self._fd, number * self._size, self._size)
        if len(page) != self._size:
            raise lmdb.CorruptedError(f"page {number} is cut")
        own, _, flags, _, _ = _HEAD.unpack_from(page)
        if own != number or flags & _KINDS not in ({_BRANCH} if is_branch else {_LEAF, _LEAF | _LEAF2}):
            raise lmdb.CorruptedError(f"page {number} is not what it should be")
        places = self._places(page, number)
        if is_branch:
            if len(places) < 2 and not is_free:
                raise lmdb.CorruptedError(f"page {number} leads nowhere")
            return [self._child(page, number, at) for at in places]
        for at in places:
            self._leaf(page, number, at, is_free=is_free)
        return []

    def _take(self, number: int, count: int) -> None:
        """Mark pages as used, once each: two ways to one page would be no tree, and might have no end."""
        if not (number >= _FIRST and number + count - 1 <= self._last):
            raise lmdb.CorruptedError(f"there is no page {number}")
        pages = range(number, number + count)
        if not self._seen.isdisjoint(pages):
            raise lmdb.CorruptedError(f"page {number} is used twice")
        self._seen.update(pages)

    def _places(self, page: bytes, number: int) -> tuple[int, ...]:
        """Where the nodes of a page, or of one inside a node, begin; none for one of bare values of one size."""
        _, width, flags, lower, upper = _HEAD.unpack_from(page)
        count = (lower - _HEAD.size) // 2
        if lower % 2 or not _HEAD.size <= lower <= upper <= len(page):
            raise lmdb.CorruptedError(f"page {number} has no room that one can have")
        if flags & _LEAF2:
            if count * width > len(page) - _HEAD.size:
                raise lmdb.CorruptedError(f"page {number} holds more values than it can")
            return ()
        places: tuple[int, ...] = struct.unpack_from(f"={count}H", page, _HEAD.size)
        if any(at % 2 or not upper <= at <= len(page) - _NODE.size for at in places):
            raise lmdb.CorruptedError(f"a node of page {number} lies outside of it")
        return places

    def _child(self, page: bytes, number: int, at: int) -> int:
        low, high, top, key = _NODE.unpack_from(page, at)
        if at + _NODE.size + key > len(page) or key > _LONGEST_KEY:
            raise lmdb.CorruptedError(f"a key of page {number} lies outside of it")
        return int(low | high << 16 | top << 32)

    def _leaf(self, page: bytes, number: int, at: int, *, is_free: bool) -> None:
        low, high, flags, key = _NODE.unpack_from(page, at)
        size, start = low | high << 16, at + _NODE.size + key
        stop = start + (8 if flags & _BIG else size)
        if stop > len(page) or key > _LONGEST_KEY:
            raise lmdb.CorruptedError(f"a row of page {number} lies outside of it")
        data = page[start:stop]
        if flags & _BIG:
            data = self._overflow(int.from_bytes(data, _ORDER), size, whole=is_free)
        if is_free:
            self._free(data, number, key)
        elif flags & _TREE_HERE:
            if size != _TREE.size:
                raise lmdb.CorruptedError(f"a tree of page {number} is cut")
            self._tree(_Tree.parse(data))
        elif flags & _SEVERAL:
            self._inside(data, number)

    def _inside(self, page: bytes, number: int) -> None:
        """Several values under one key, which lie in a page inside the node."""
        if len(page) < _HEAD.size or not _HEAD.unpack_from(page)[2] & _LEAF:
            raise lmdb.CorruptedError(f"the values of a key of page {number} are cut")
        for at in self._places(page, number):
            low, high, flags, key = _NODE.unpack_from(page, at)
            if flags or at + _NODE.size + key + (low | high << 16) > len(page):
                raise lmdb.CorruptedError(f"a value of a key of page {number} lies outside of it")

    def _overflow(self, number: int, size: int, *, whole: bool) -> bytes:
        """A value in pages of its own; its bytes where they are wanted."""
        head = os.pread(self._fd, _HEAD.size, number * self._size) if number <= self._last else b""
        if len(head) != _HEAD.size:
            raise lmdb.CorruptedError(f"there is no page {number}")
        own, _, flags, low, high = _HEAD.unpack(head)
        count = -(-(_HEAD.size + size) // self._size)
        if own != number or flags & _KINDS != _OVERFLOW or low | high << 16 < count:
            raise lmdb.CorruptedError(f"page {number} is not what it should be")
        self._take(number, low | high << 16)
        return os.pread(self._fd, size, number * self._size + _HEAD.size) if whole else b""

    def _free(self, data: bytes, number: int, key: int) -> None:
        """A list of pages that are free: how many, and their numbers, descending."""
        count = int.from_bytes(data[:8], _ORDER)
        if key != 8 or len(data) < 8 * (count + 1):
            raise lmdb.CorruptedError(f"a list of free pages in page {number} is cut")
        pages = struct.unpack_from(f"={count}Q", data, 8)
        if any(not _FIRST <= page <= self._last for page in pages):
            raise lmdb.CorruptedError(f"a list of free pages in page {number} names pages that there are not")
