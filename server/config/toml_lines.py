"""The line of each key in a TOML file, which `tomllib` does not report.

Rule: pure, and only for messages: it finds headers and keys in a file that `tomllib` accepted. If it cannot find a key
(inside an inline table), the caller falls back to the line of the surrounding table.
"""

import re
from collections.abc import Iterator

KeyPath = tuple[str | int, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"^\s*(\[\[?)\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(rf"^\s*({_DOTTED})\s*=(.*)$")
_TRIPLE = re.compile(r'"""|' + r"'''")
_QUIET = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|#.*$""")  # strings and comments: their brackets do not count


def locate(text: str) -> dict[KeyPath, int]:
    """The first line (from 1) of every table and key, by path; the n-th table of an array has the path (name, n)."""
    found: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in _outside_values(text):
        if header := _HEADER.match(line):
            table = _names(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                found.setdefault(table, number)
                table = (*table, counts[table])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            path = table
            for name in _names(key[1]):
                path = (*path, name)
                found.setdefault(path, number)
    return found


def _names(dotted: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def _outside_values(text: str) -> Iterator[tuple[int, str]]:
    """The lines that start outside a multi-line string or array, with their numbers."""
    quote, depth = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        rest = line
        if not quote and depth == 0:
            yield number, line
            key = _KEY.match(line)
            rest = key[2] if key else ""
        while True:
            if quote:
                _, closing, rest = rest.partition(quote)
                if not closing:
                    break
                quote = ""
            opening = _TRIPLE.search(rest)
            plain = _QUIET.sub("", rest[: opening.start()] if opening else rest)
            depth = max(0, depth + plain.count("[") - plain.count("]"))
            if opening is None:
                break
            quote, rest = opening[0], rest[opening.end() :]
