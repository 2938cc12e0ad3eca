"""PS3.4 C.2.2.2, rule by rule, and the wildcard matcher against a naive one."""

import re
import sys
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.index.dicom.matching import compile_key, fold_name
from coffer.index.dicom.wildcards import compile_wildcards
from coffer.keys.errors import IdentifierError

NAME, ID, UID, DATE, TIME, DATETIME, NUMBER, MODALITY, COMMENTS, CODES = (
    0x00100010, 0x00100020, 0x0020000D, 0x00080020, 0x00080030, 0x0008002A, 0x00200013, 0x00080060, 0x00104000,
    0x00081032,
)  # fmt: skip


def naive(pattern: str, text: str) -> bool:
    """The definition, read literally."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive(pattern[1:], text[i:]) for i in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and naive(pattern[1:], text[1:])


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_wildcards_match_as_defined(pattern: str, text: str) -> None:
    assert compile_wildcards(pattern)(text) == naive(pattern, text)


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python it takes: the same on every machine."""
    lines = 0

    def trace(frame: object, event: str, _: object) -> object:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        work()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*" + "?" * 2000 + "z*", "y" * 8000),
        ("*" + "?" * 44 + "z*", "y" * 8000),
        ("*a" * 500 + "*b", "a" * 4000),
        ("*?a" * 300 + "b", "a" * 4000),
        ("*" + "a" * 1000 + "?b*", "a" * 8000),
        ("?" * 4000 + "z", "y" * 4001),
    ],
)
def test_wildcards_take_time_that_grows_with_the_length_only(pattern: str, text: str) -> None:
    matches = compile_wildcards(pattern)
    assert not matches(text)
    assert lines_run(lambda: matches(text)) < 6 * (len(pattern) + len(text))


@pytest.mark.parametrize(
    ("tag", "key", "value", "expected"),
    [
        (ID, "P1", "P1", True),
        (ID, "P1", "p1", False),
        (ID, "P1", "P10", False),
        (ID, "P*", "P10", True),
        (ID, "P?", "P10", False),
        (ID, "*", "", True),
        (ID, "", "", True),
        (ID, "?", "", False),
        (ID, "[P]*", "P1", False),
        (MODALITY, "C?", "CT", True),
        (MODALITY, "ct", "CT", False),
        (NAME, "doe^jane", "DOE^Jane", True),
        (NAME, "doe", "DOE^Jane", False),
        (NAME, "doe*", "DOE^Jane", True),
        (NAME, "DOE^JANE", "Doe^Jane^^", True),
        (NAME, "DOE^JANE^^^", "Doe^Jane", True),
        (NAME, "yamada*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        (NAME, "山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        (NAME, "=山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        (NAME, "yamada*=太郎*", "Yamada^Tarou=山田^太郎", False),
        (NAME, "MÜLLER", "Müller", True),
        (NAME, "Mu\u0308ller", "Müller", True),
        (NAME, "*=*", "", True),
        (NAME, "SMITH^*", "SMITH^^^^", True),
        (NAME, "SMITH^*", "SMITH^", True),
        (NAME, "SMITH^*", "SMITH", True),
        (NAME, "SMITH^*", "SMITH^JOHN", True),
        (NAME, "SMITH^*", "SMITHSON^JOHN", False),
        (NAME, "SMITH^*^*", "SMITH^JOHN", True),
        (NAME, "SMITH^^*", "SMITH^^^", True),
        (NAME, "SMITH^^*", "SMITH^JOHN", False),
        (NAME, "SMITH^*^", "SMITH^JOHN", True),
        (NAME, "SMITH*^", "SMITHSON", True),
        (NAME, "*^*", "SMITH^", True),
        (NAME, "*^JOHN^*", "SMITH^JOHN", True),
        (NAME, "SMITH^?", "SMITH^^", False),
        (NAME, "SMITH?", "SMITH^", False),
        (NAME, "SMITH^?*", "SMITH", False),
        (NAME, "SMITH^J?*", "SMITH^JOHN", True),
        (NAME, "^*", "SMITH^JOHN", False),
        (NAME, "^*", "^JOHN", True),
        (NAME, "SMITH^*=*", "SMITH^^^^=^^", True),
        (NAME, "SMITH=^*", "SMITH", True),
        (NAME, "SMITH=山*", "SMITH", False),
        (NAME, "smith^*", "ＳＭＩＴＨ^^", True),
        (NAME, "MÜLLER^*", "mu\u0308ller^", True),
        (UID, "1.2", "1.2", True),
        (UID, "1.2\\1.3", "1.3", True),
        (UID, "1.2\\1.3", "1.4", False),
        (UID, "1.*", "1.2", False),
        (DATE, "20240101", "20240101", True),
        (DATE, "20240101-20240131", "20240131", True),
        (DATE, "20240101-20240131", "20240201", False),
        (DATE, "20240101-", "20991231", True),
        (DATE, "-20240101", "20231231", True),
        (DATE, "-20240101", "", False),
        (DATE, "20240101-20240131", "2024.01.15", True),
        (DATE, "2024*", "20240101", False),
        (DATE, "rubbish", "20240101", False),
        (TIME, "1030", "103000", True),
        (TIME, "1000-1100", "110059.9", True),
        (TIME, "1000-1100", "110100", False),
        (TIME, "10-11", "09:59:59", False),
        (TIME, "2300-0100", "233000", True),  # over midnight
        (TIME, "2300-0100", "00:30", True),
        (TIME, "2300-0100", "120000", False),
        (DATE, "20240102-20240101", "20240101", False),
        (DATETIME, "20240101120000-0500", "20240101170000+0000", True),
        (DATETIME, "2023-2024", "20240615120000", True),
        (DATETIME, "20240101-0500-20240102-0500", "20240102030000+0000", True),
        (DATETIME, "-20240101", "20230101", True),
        (NUMBER, "7", "007", True),
        (NUMBER, "7", "+7", True),
        (NUMBER, "7", "70", False),
        (NUMBER, "x", "x", True),
        (COMMENTS, "*fracture*", "No fracture seen", True),
    ],
)
def test_rules(tag: int, key: str, value: str, expected: bool) -> None:
    keys = tuple(key.split("\\")) if key else ()
    assert compile_key(tag, keys).matches((value,) if value else ()) is expected


def test_any_value_of_several_matches() -> None:
    assert compile_key(ID, ("B",)).matches(("A", "B"))
    assert not compile_key(ID, ("C",)).matches(("A", "B"))


def test_universal_matches_what_is_absent_and_others_do_not() -> None:
    assert compile_key(ID, ()).matches(None)
    assert compile_key(NAME, ("*",)).matches(())
    assert not compile_key(ID, ("A",)).matches(None)
    for tag in (NAME, ID, UID, DATE, TIME, DATETIME, NUMBER, COMMENTS):
        for star in ("*", "**"):
            assert compile_key(tag, (star,)).universal  # workstations fill every empty field with a star
            assert compile_key(tag, (star,)).matches(None)


def test_a_sequence_matches_when_one_item_satisfies_the_whole_key() -> None:
    stored = ({0x00080100: ("A",), 0x00080102: ("DCM",)}, {0x00080100: ("B",), 0x00080102: ("LN",)})
    assert compile_key(CODES, ({0x00080100: ("B",), 0x00080102: ("LN",)},)).matches(stored)
    assert not compile_key(CODES, ({0x00080100: ("A",), 0x00080102: ("LN",)},)).matches(stored)
    assert compile_key(CODES, ({0x00080100: ()},)).matches(())
    assert compile_key(CODES, ()).matches(None)


def spelled(name: str) -> set[str]:
    """A group of a name with every number of empty components behind it that may as well be left out."""
    bare = name.rstrip("^")
    return {bare + "^" * n for n in range(7)}


@given(st.text("ab^*", max_size=7), st.text("ab^", max_size=6))
def test_a_name_matches_in_whatever_spelling_of_its_empty_end(key: str, name: str) -> None:
    """By characters, against every spelling of the name; a key without a star is itself spelled in every way."""
    keys = {key} if "*" in key else spelled(key)
    asks_nothing = not key.strip("*^") and ("*" not in key or key.startswith("*"))
    expected = asks_nothing or any(naive(k, n) for k in keys for n in spelled(name))
    assert compile_key(NAME, (key,)).matches((name,)) is expected


@given(
    st.sampled_from([NAME, ID, UID, DATE, TIME, DATETIME, NUMBER, COMMENTS]),
    st.lists(st.text(max_size=30), max_size=32),
    st.text(),
)
def test_no_key_and_no_value_raise(tag: int, keys: list[str], value: str) -> None:
    compile_key(tag, tuple(keys)).matches((value,))


@pytest.mark.parametrize("number", ["nan", "NaN", "inf", "1e400", "", "-", "²", "٣", "9" * 400])
def test_odd_numbers_and_dates_match_what_is_written_alike(number: str) -> None:
    for tag in (NUMBER, DATE, TIME, DATETIME):
        key = compile_key(tag, (number, f"{number}-{number}"))
        assert key.matches((number,)) is (bool(number) or key.universal)
        assert not compile_key(tag, ("7",)).matches((number,))


@pytest.mark.parametrize(
    ("tag", "values", "said"),
    [
        (NAME, ("*" + "?" * 44 + "z*",) * 9990, "(0010,0010) takes at most 32 values of this kind"),
        (NAME, ("A",) * 33, "(0010,0010) takes at most 32 values of this kind"),
        (ID, ("A*",) * 33, "(0010,0020) takes at most 32 values of this kind"),
        (DATE, ("20240101-",) * 33, "(0008,0020) takes at most 32 values of this kind"),
        (ID, ("A" * 4097,), "(0010,0020) takes at most 4096 characters a value"),
        (ID, ({0x00080100: ("A",)},), "(0010,0020) does not take a sequence"),
        (CODES, ("A",), "(0008,1032) takes a sequence, not text"),
        (CODES, ({0x00080104: ("A*",) * 33},), "(0008,0104) takes at most 32 values of this kind"),
        (ID, ("A\udcff",), "(0010,0020) holds bytes that are not text"),
    ],
)
def test_a_key_that_would_take_too_long_or_asks_something_else_is_refused(
    tag: int, values: tuple[str, ...], said: str
) -> None:
    with pytest.raises(IdentifierError, match=re.escape(said)) as raised:
        compile_key(tag, values)
    assert len(said) <= 64  # PS3.5 6.2: the Error Comment is an LO
    assert raised.value.hint()
    assert raised.value.offending[0] in (tag, 0x00080104)


def test_long_lists_of_whole_values_are_taken() -> None:
    """A workstation asks for thousands of UIDs or Patient IDs at once."""
    wanted = tuple(f"1.2.{n}" for n in range(9990))
    for tag in (UID, ID, NUMBER):
        assert compile_key(tag, wanted).matches(("1.2.77",))
        assert not compile_key(tag, wanted).matches(("1.3",))


@given(st.text(max_size=30))
def test_names_fold_alike_in_every_unicode_form(name: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert fold_name(unicodedata.normalize(form, name)) == fold_name(name)  # type: ignore[arg-type]
