"""Strategies for events, from the types of their fields."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from coffer.archive.events.event import Event


def events(of: type[Event]) -> st.SearchStrategy[Event]:
    """Any event of a class."""
    return _struct(inspect.type_info(of))  # type: ignore[arg-type]


def _struct(of: inspect.StructType) -> st.SearchStrategy[Any]:
    return st.builds(of.cls, **{each.name: values(each.type) for each in of.fields})


def values(of: inspect.Type) -> st.SearchStrategy[Any]:
    """Any value of a type that events use; an AssertionError for another one."""
    match of:
        case inspect.Metadata(type=inner):
            return values(inner)
        case inspect.StructType():
            return _struct(of)
        case inspect.UnionType(types=types):
            return st.one_of(*map(values, types))
        case inspect.VarTupleType(item_type=item, min_length=least):
            return st.lists(values(item), min_size=least or 0, max_size=4).map(tuple)
        case inspect.LiteralType(values=words):
            return st.sampled_from(words)
        case inspect.IntType(ge=least, le=most):
            assert least is not None
            assert most is not None
            return st.integers(least, most)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.StrType(pattern=str(pattern), max_length=longest):
            alphabet = st.characters(codec="utf-8")
            found = st.from_regex(pattern, fullmatch=True, alphabet=alphabet)
            return found if longest is None else found.filter(lambda text: len(text) <= longest)
        case inspect.StrType():
            return st.text(st.characters(codec="utf-8"))
    raise AssertionError(msgspec.json.encode(repr(of)))
