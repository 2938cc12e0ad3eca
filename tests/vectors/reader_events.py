"""A second reader of events, by the tables of archive/FORMAT.md alone: `python tests/vectors/reader_events.py`.

It uses the standard library only and shares no code with the product. It reads the tables as a person would: the kinds
of records, the events with their fields, the type of each field.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "archive" / "FORMAT.md"
FILE = Path(__file__).parent / "events" / "events.json"
MOST = (1 << 63) - 1
LONGEST = 1 << 20


class RejectedError(Exception):
    """A MUST of the format is broken."""


def must(condition: bool, what: str) -> None:
    """Raise RejectedError unless `condition` holds."""
    if not condition:
        raise RejectedError(what)


def table(page: str, *heads: str) -> list[list[str]]:
    """The rows of the one table with these column heads."""
    head = re.escape("| " + " | ".join(heads) + " |")
    (body,) = re.findall(rf"^{head}\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()]


class Tables:
    """What the page says: kinds of records by name, events by code and version, types by field."""

    def __init__(self, page: str) -> None:
        self.kinds = {name: int(value) for name, value, _ in table(page, "Kind", "Value", "Body")}
        self.types = {name.strip("`"): of for name, of, _ in table(page, "Field", "Type", "What")}
        self.known_types = {name for name, _ in table(page, "Type", "JSON")}
        self.events = {
            (code.strip("`"), int(version)): (self.kinds[kind], self._fields(fields))
            for code, version, kind, _, fields in table(page, "Code", "Version", "Record kind", "What", "Fields")
        }

    @staticmethod
    def _fields(cell: str) -> dict[str, bool]:
        """The names of fields, and whether each may be null."""
        return {name: bool(null) for name, null in re.findall(r"`(\w+)`( or null)?", cell)}

    def read(self, text: str, kind: int) -> dict[str, object]:
        """The fields of an event under a record of this kind. Raises RejectedError."""
        must(len(text.encode()) <= LONGEST, "it is too long")
        body = json.loads(text)
        must(isinstance(body, dict), "it is no object")
        must(text == json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False), "it is not canonical")
        code, version = body.pop("code", None), body.pop("v", None)
        must(type(code) is str and type(version) is int, "it does not say what it is")
        must((code, version) in self.events, "it is of a newer version")
        of_kind, fields = self.events[code, version]
        must(kind == of_kind, "it stands under another kind of record")
        must(set(body) == set(fields), "it has other fields")
        for name, value in body.items():
            must((value is None and fields[name]) or self.is_of(value, self.types[name]), f"{name} is not of its type")
        return body

    def is_of(self, value: object, of: str) -> bool:
        """Whether a value is of a type, as the tables name it."""
        if of.startswith("list of "):
            item, _, rest = of.removeprefix("list of ").partition(", ")
            enough = rest != "not empty" or value != []
            return isinstance(value, list) and enough and all(self.is_of(each, item) for each in value)
        if of.startswith("`"):
            return value in re.findall(r"`(\w+)`", of)
        must(of in self.known_types, f"the page does not say what {of} is")
        return TYPES[of](value)


def is_text(value: object, pattern: str = "(?s:.*)") -> bool:
    """Whether it is a text, all of which matches."""
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def is_number(value: object) -> bool:
    """Whether it is a whole number in range; true and false are none."""
    return type(value) is int and 0 <= value <= MOST


def is_object(value: object, **fields: object) -> bool:
    """Whether it is an object of exactly these fields."""
    is_whole = isinstance(value, dict) and set(value) == set(fields)
    return is_whole and all(TYPES[str(of)](value[name]) for name, of in fields.items())  # type: ignore[index]


TYPES = {
    "count": is_number,
    "ms": is_number,
    "flag": lambda value: isinstance(value, bool),
    "text": is_text,
    "line": lambda value: is_text(value, "[ -~]{0,2000}"),
    "date": lambda value: is_text(value, "[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    "name": lambda value: is_text(value, "[0-9A-Za-z._-]{0,200}"),
    "hex4": lambda value: is_text(value, "[0-9a-f]{8}"),
    "hex8": lambda value: is_text(value, "[0-9a-f]{16}"),
    "hex16": lambda value: is_text(value, "[0-9a-f]{32}"),
    "hex32": lambda value: is_text(value, "[0-9a-f]{64}"),
    "row": lambda value: is_text(value, "([0-9a-f]{2})*"),
    "officer": lambda value: is_object(value, account="text", name="text"),
    "tree_head": lambda value: is_object(value, records="count", root="hex32"),
}


def read_all() -> int:
    """Read every golden event; returns how many there are."""
    tables, found = Tables(PAGE.read_text(encoding="utf-8")), json.loads(FILE.read_text(encoding="utf-8"))
    for each in found.values():
        tables.read(each["json"], each["kind"])
    must({tuple(name.split()) for name in found} == {(c, str(v)) for c, v in tables.events}, "an event has no example")
    return len(found)


if __name__ == "__main__":
    print(f"{read_all()} events are as archive/FORMAT.md says")
