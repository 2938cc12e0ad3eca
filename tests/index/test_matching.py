"""PS3.4 C.2.2.2, rule by rule, and the wildcard matcher against a naive one."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.matching import compile_key
from index.wildcards import compile_wildcards

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


def test_wildcards_take_no_exponential_time() -> None:
    started = time.process_time()
    assert not compile_wildcards("*a" * 500 + "*b")("a" * 4000)
    assert not compile_wildcards("*?a" * 300 + "b")("a" * 4000)
    assert time.process_time() - started < 2


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
        (TIME, "2300-0100", "233000", False),
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


def test_a_sequence_matches_when_one_item_satisfies_the_whole_key() -> None:
    stored = ({0x00080100: ("A",), 0x00080102: ("DCM",)}, {0x00080100: ("B",), 0x00080102: ("LN",)})
    assert compile_key(CODES, ({0x00080100: ("B",), 0x00080102: ("LN",)},)).matches(stored)
    assert not compile_key(CODES, ({0x00080100: ("A",), 0x00080102: ("LN",)},)).matches(stored)
    assert compile_key(CODES, ({0x00080100: ()},)).matches(())
    assert compile_key(CODES, ()).matches(None)


@given(
    st.sampled_from([NAME, ID, UID, DATE, TIME, DATETIME, NUMBER, COMMENTS]), st.lists(st.text(max_size=30)), st.text()
)
def test_no_key_and_no_value_raise(tag: int, keys: list[str], value: str) -> None:
    compile_key(tag, tuple(keys)).matches((value,))
