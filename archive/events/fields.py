"""The types of the fields of events, and the fields that several kinds of event have in common.

Rule: a field of one name has one type and one meaning in every event (FORMAT.md lists them from here). Numbers are
unsigned and below 2^63; ids and hashes are lower-case hexadecimal text.
"""

from typing import Annotated, Final

import msgspec

from coffer.archive.events.officer import Officer

__all__ = [
    "TYPES",
    "By",
    "Command",
    "Count",
    "Date",
    "Epoch",
    "Flag",
    "Groups",
    "Head",
    "Hex4",
    "Hex8",
    "Hex16",
    "Hex32",
    "Keepers",
    "Line",
    "Ms",
    "Name",
    "NewKey",
    "Person",
    "Provider",
    "Reason",
    "Row",
    "ShareGroups",
    "Text",
    "TreeHead",
    "doc",
]

TYPES: Final = {
    "count": "an integer from 0 to 2^63 - 1",
    "ms": "an integer from 0 to 2^63 - 1: milliseconds since 1970 UTC",
    "flag": "true or false",
    "text": "text",
    "line": "text of at most 2000 characters, each one from U+0020 to U+007E",
    "date": "text: `YYYY-MM-DD`",
    "name": "text of at most 200 characters, each one of `0-9A-Za-z._-`",
    "hex4": "text of 8 of the digits `0-9a-f`: 4 bytes",
    "hex8": "text of 16 of the digits `0-9a-f`: 8 bytes",
    "hex16": "text of 32 of the digits `0-9a-f`: 16 bytes",
    "hex32": "text of 64 of the digits `0-9a-f`: 32 bytes",
    "row": "text of an even number of the digits `0-9a-f`: the value of a row of the keyring (keys/FORMAT.md)",
    "officer": "an object of `account` (text) and `name` (text): a person, as named, and the account that was used",
    "tree_head": "an object of `records` (count) and `root` (hex32): how many records, and the root of their tree",
}
_MOST: Final = (1 << 63) - 1


def doc(what: str) -> msgspec.Meta:
    """The meaning of a field, for the table in FORMAT.md."""
    return msgspec.Meta(description=what)


def _type(name: str, pattern: str | None = None, longest: int | None = None) -> msgspec.Meta:
    assert name in TYPES
    return msgspec.Meta(extra={"type": name}, pattern=pattern, max_length=longest)


def _number(name: str) -> msgspec.Meta:
    return msgspec.Meta(extra={"type": name}, ge=0, le=_MOST)


Count = Annotated[int, _number("count")]
Ms = Annotated[int, _number("ms")]
Flag = Annotated[bool, _type("flag")]
Text = Annotated[str, _type("text")]
Line = Annotated[str, _type("line", r"^[\x20-\x7e]*\Z", 2000)]
Date = Annotated[str, _type("date", r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")]
Name = Annotated[str, _type("name", r"^[0-9A-Za-z._-]*\Z", 200)]
Hex4 = Annotated[str, _type("hex4", r"^[0-9a-f]{8}\Z")]
Hex8 = Annotated[str, _type("hex8", r"^[0-9a-f]{16}\Z")]
Hex16 = Annotated[str, _type("hex16", r"^[0-9a-f]{32}\Z")]
Hex32 = Annotated[str, _type("hex32", r"^[0-9a-f]{64}\Z")]
Row = Annotated[str, _type("row", r"^([0-9a-f]{2})*\Z")]
Person = Annotated[Officer, _type("officer")]


class TreeHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many records a tree has, and its root."""

    records: Count
    root: Hex32


Head = Annotated[TreeHead, _type("tree_head")]

By = Annotated[Person, doc("who did it")]
Command = Annotated[Text, doc("the command or job that did it")]
Reason = Annotated[Text, doc("why, as it was typed")]
NewKey = Annotated[Hex16, doc("the id of the key that takes the place of the one that the record is about")]
Epoch = Annotated[Count, doc("the number of the epoch")]
Provider = Annotated[Text, doc("the kind of provider")]
Keepers = Annotated[tuple[Row, ...], doc("rows of what opens the epoch's key, or did")]
Groups = Annotated[tuple[Row, ...], doc("rows of the groups of shares")]
ShareGroups = Annotated[tuple[Hex8, ...], doc("the ids of the groups of shares of the epoch")]
