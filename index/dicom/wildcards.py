"""Wildcards of PS3.4 C.2.2.2.4 over one string, in time linear in its length.

Rule: pure. `*` is any run of characters, even an empty one, `?` exactly one; everything else is literal. Pieces between
stars are matched at their leftmost place, which is right because a later one could only leave less for the rest. A
piece with `?` is searched bit-parallel (shift-and: one bit of an integer per character), so that no input makes it
backtrack.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["compile_wildcards"]


def compile_wildcards(pattern: str) -> Callable[[str], bool]:
    """Return a function that decides whether a whole text matches `pattern`."""
    texts = pattern.split("*")
    if len(texts) == 1:
        whole = _Piece(pattern)
        return lambda text: len(text) == whole.length and whole.is_at(text, 0)
    first, *middle, last = (_Piece(text) for text in texts)
    middle = [piece for piece in middle if piece.length]
    least = sum(piece.length for piece in (first, *middle, last))

    def matches(text: str) -> bool:
        stop = len(text) - last.length
        if len(text) < least or not first.is_at(text, 0) or not last.is_at(text, stop):
            return False
        at = first.length
        for piece in middle:
            at = piece.end_in(text, at, stop)
            if at < 0:
                return False
        return True

    return matches


class _Piece:
    """A stretch of a pattern without a star."""

    __slots__ = ("_has_gaps", "_text", "_where", "length")

    def __init__(self, text: str) -> None:
        self._text = text
        self.length = len(text)
        self._has_gaps = "?" in text
        gaps = sum(1 << i for i, c in enumerate(text) if c == "?") if self._has_gaps else 0
        self._where: dict[str, int] = {"": gaps}  # the positions in the piece at which a character may be
        if self._has_gaps:
            for i, c in enumerate(text):
                if c != "?":
                    self._where[c] = self._where.get(c, gaps) | 1 << i

    def is_at(self, text: str, at: int) -> bool:
        """Whether the piece is at this position."""
        if not self._has_gaps:
            return text.startswith(self._text, at)
        there = text[at : at + self.length]
        return len(there) == self.length and all(p in ("?", c) for p, c in zip(self._text, there, strict=True))

    def end_in(self, text: str, at: int, stop: int) -> int:
        """Where the leftmost occurrence between two positions ends; -1 if there is none."""
        if not self._has_gaps:
            found = text.find(self._text, at, stop)
            return found if found < 0 else found + self.length
        where, gaps, full = self._where, self._where[""], 1 << (self.length - 1)
        state = 0
        for i in range(at, stop):
            state = (state << 1 | 1) & where.get(text[i], gaps)
            if state & full:
                return i + 1
        return -1
