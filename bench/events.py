"""Write the tables of events in archive/FORMAT.md from the classes: every event, its fields and their types.

A field of one name has one type and one meaning in every event: this fails with a sentence where two classes disagree.

    python -m bench.events           print the tables
    python -m bench.events --write   write them into archive/FORMAT.md, between the two comments
"""

import argparse
import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from bench.marked import with_part
from coffer.archive.events.codec import EVENTS, RESERVED
from coffer.archive.events.event import Event
from coffer.archive.events.fields import TYPES

PAGE: Final = Path(__file__).resolve().parents[1] / "archive" / "FORMAT.md"
BEGIN: Final = "<!-- written by `python -m bench.events --write` -->"
END: Final = "<!-- end of what bench.events writes -->"


def _metas(annotation: object) -> list[msgspec.Meta]:
    found = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return [each for each in found if isinstance(each, msgspec.Meta)]


def _bare(annotation: object) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def type_name(annotation: object) -> str:
    """The type of a field as the table names it: one of `TYPES`, a list of one, or fixed words. None is left out."""
    named = [each.extra["type"] for each in _metas(annotation) if each.extra]
    if named:
        return str(named[0])
    bare = _bare(annotation)
    if get_origin(bare) is tuple:
        least = any(each.min_length for each in _metas(annotation))
        return f"list of {type_name(get_args(bare)[0])}" + ", not empty" * least
    if get_origin(bare) is Literal:
        return " or ".join(f"`{word}`" for word in get_args(bare))
    (inner,) = (each for each in get_args(bare) if each is not types.NoneType)
    return type_name(inner)


def is_nullable(annotation: object) -> bool:
    """Whether a field may be null."""
    bare = _bare(annotation)
    return get_origin(bare) in {Union, types.UnionType} and types.NoneType in get_args(bare)


def meaning(annotation: object) -> str:
    """What a field means, from its annotation."""
    found = [each.description for each in _metas(annotation) if each.description]
    if found:
        return found[-1]
    (inner,) = (each for each in get_args(_bare(annotation)) if each is not types.NoneType)
    return meaning(inner)


def fields_of(of: type[Event]) -> dict[str, Any]:
    """The annotations of an event's fields, by name, in the order in which they are encoded."""
    hints = get_type_hints(of, include_extras=True)
    return {name: hints[name] for name in sorted(of.__struct_fields__)}


def _sentence(of: type[Event]) -> str:
    return " ".join((inspect.getdoc(of) or "").split("\n\n")[0].split())


def _event_rows() -> Iterator[str]:
    for of in sorted(EVENTS, key=lambda each: (each.code, each.version)):
        fields = [f"`{name}`" + " or null" * is_nullable(each) for name, each in fields_of(of).items()]
        yield f"| `{of.code}` | {of.version} | {of.kind.name} | {_sentence(of)} | {', '.join(fields)} |"


def _field_rows() -> Iterator[str]:
    known: dict[str, tuple[str, str]] = {}
    for of in EVENTS:
        for name, annotation in fields_of(of).items():
            found = type_name(annotation), meaning(annotation)
            if known.setdefault(name, found) != found:
                raise SystemExit(f"{of.code}: the field {name} means something else in another event")
    return (f"| `{name}` | {of} | {what} |" for name, (of, what) in sorted(known.items()))


def tables() -> str:
    """The generated part, without the comments around it."""
    parts = (
        ["| Code | Version | Record kind | What | Fields |", "|---|---|---|---|---|", *_event_rows()],
        ["| Field | Type | What |", "|---|---|---|", *_field_rows()],
        ["| Type | JSON |", "|---|---|", *(f"| {name} | {what} |" for name, what in TYPES.items())],
        ["| Reserved | For |", "|---|---|", *(f"| `{code}` | {what} |" for code, what in RESERVED.items())],
    )
    return "\n\n".join("\n".join(part) for part in parts)


def written(page: str) -> str:
    """The page with the present tables. Raises SystemExit if it has no place for them."""
    return with_part(page, BEGIN, END, f"\n\n{tables()}\n\n")


def main() -> None:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(description="the tables of events in archive/FORMAT.md, from the classes")
    parser.add_argument("--write", action="store_true", help="write them into archive/FORMAT.md")
    if parser.parse_args().write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tables())


if __name__ == "__main__":
    main()
