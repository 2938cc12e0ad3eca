"""Check every page of an LMDB file before LMDB follows it: a bad page reference kills the process that follows it.

Rule: LMDB keeps no checksums, reads through a memory map and trusts the pages; one flipped bit in a length is a bus
error or a failed assertion. So sizes, offsets and page types are cross-checked here with plain reads, in one committed
state that the caller's transaction pins. Row contents are not checked: they have checksums of their own.
Layout: lmdb 0.9, mdb.c, MDB_page, MDB_node, MDB_db, MDB_meta; integers in native byte order.
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
_BIG, _TREE_HERE, _SEVERAL = 0x01, 0x02, 0x04  # node flags: data in overflow pages, a subtree, several values
_ORDER: Final = sys.byteorder
_NOTHING: Final = 2**64 - 1
_FIRST: Final = 2  # pages 0 and 1 are the two metas
_DEEPEST: Final = 32  # the depth of LMDB's cursors
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

    def _tree(self, tree: _Tree, *, is_free: bool = False) -> None:
        if tree.root == _NOTHING:
            return
        if not 1 <= tree.depth <= _DEEPEST:
            raise lmdb.CorruptedError("a tree has an impossible depth")
        level = [tree.root]
        for left in range(tree.depth, 0, -1):
            level = [below for number in level for below in self._page(number, left > 1, is_free=is_free)]

    def _page(self, number: int, is_branch: bool, *, is_free: bool) -> list[int]:
        """Check a page and its nodes. Returns the numbers of its child pages."""
        self._take(number, 1)
        page = read_up_to(self._fd, number * self._size, self._size)
        if len(page) != self._size:
            raise lmdb.CorruptedError(f"page {number} is truncated")
        own, _, flags, _, _ = _HEAD.unpack_from(page)
        if own != number or flags & _KINDS not in ({_BRANCH} if is_branch else {_LEAF, _LEAF | _LEAF2}):
            raise lmdb.CorruptedError(f"page {number} has the wrong number or type")
        places = self._places(page, number)
        if is_branch:
            if len(places) < 2 and not is_free:
                raise lmdb.CorruptedError(f"page {number} has fewer than two children")
            return [self._child(page, number, at) for at in places]
        for at in places:
            self._leaf(page, number, at, is_free=is_free)
        return []

    def _take(self, number: int, count: int) -> None:
        """Mark pages as used. A page reached twice is no tree, and a walk of it might never end."""
        if not (number >= _FIRST and number + count - 1 <= self._last):
            raise lmdb.CorruptedError(f"there is no page {number}")
        pages = range(number, number + count)
        if not self._seen.isdisjoint(pages):
            raise lmdb.CorruptedError(f"page {number} is used twice")
        self._seen.update(pages)

    def _places(self, page: bytes, number: int) -> tuple[int, ...]:
        """Return the offsets of the nodes in a page or sub-page; none for a page of bare fixed-size values."""
        _, width, flags, lower, upper = _HEAD.unpack_from(page)
        count = (lower - _HEAD.size) // 2
        if lower % 2 or not _HEAD.size <= lower <= upper <= len(page):
            raise lmdb.CorruptedError(f"page {number} has impossible bounds")
        if flags & _LEAF2:
            if count * width > len(page) - _HEAD.size:
                raise lmdb.CorruptedError(f"page {number} claims more values than fit")
            return ()
        places: tuple[int, ...] = struct.unpack_from(f"={count}H", page, _HEAD.size)
        if any(at % 2 or not upper <= at <= len(page) - _NODE.size for at in places):
            raise lmdb.CorruptedError(f"a node of page {number} lies outside it")
        return places

    def _child(self, page: bytes, number: int, at: int) -> int:
        low, high, top, key = _NODE.unpack_from(page, at)
        if at + _NODE.size + key > len(page) or key > _LONGEST_KEY:
            raise lmdb.CorruptedError(f"a key of page {number} lies outside it")
        return int(low | high << 16 | top << 32)

    def _leaf(self, page: bytes, number: int, at: int, *, is_free: bool) -> None:
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
            self._tree(_Tree.parse(data))
        elif flags & _SEVERAL:
            self._inside(data, number)

    def _inside(self, page: bytes, number: int) -> None:
        """Check the values of one key, which lie in a sub-page inside the node."""
        if len(page) < _HEAD.size or not _HEAD.unpack_from(page)[2] & _LEAF:
            raise lmdb.CorruptedError(f"the values of a key of page {number} are truncated")
        for at in self._places(page, number):
            low, high, flags, key = _NODE.unpack_from(page, at)
            if flags or at + _NODE.size + key + (low | high << 16) > len(page):
                raise lmdb.CorruptedError(f"a value of a key of page {number} lies outside it")

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
