"""What narrows a search may let too many studies through, never too few: `index.dicom.matching` decides."""

from hypothesis import given
from hypothesis import strategies as st

from coffer.index.dicom.matching import compile_key
from coffer.index.instance.identity import PartId
from coffer.index.tables.candidates import StudyTable
from coffer.index.tables.rows import Merged, StudyRow

NAME, ID, BORN, DATE, ACCESSION, DESCRIPTION, REFERRING, STUDY_ID = (
    0x00100010, 0x00100020, 0x00100030, 0x00080020, 0x00080050, 0x00081030, 0x00080090, 0x00200010,
)  # fmt: skip
SEARCHED = (NAME, ID, BORN, DATE, ACCESSION, DESCRIPTION, REFERRING)
# NUL, the last code point, one that folds to 18 characters, marks, wide signs, and what SQL or a key gives a meaning.
ODD = "aB^=*?'\"%_ \0\U0010ffff\ufdfa\u0301ßİ＾＝é\ud7ff\ue000-20240131."
VALUES = st.text(ODD, max_size=12) | st.text("ab^\ufdfa", min_size=200, max_size=256)


def found(values: dict[int, tuple[str, ...]], tag: int, key: tuple[str, ...]) -> tuple[bool, bool]:
    """Whether the matcher says yes to a study with these values, and whether the table lets it through."""
    compiled = compile_key(tag, key)
    table = StudyTable()
    table.put([(1, StudyRow(PartId("1.2"), bytes(16), Merged(values)))])
    table.index()
    try:
        return compiled.matches(values.get(tag)), 1 in set(table.candidates({tag: compiled}))
    finally:
        table.close()


@given(
    st.sampled_from(SEARCHED), st.lists(VALUES, max_size=2), st.lists(st.text(ODD, max_size=8), max_size=2), st.data()
)
def test_no_study_is_narrowed_away(tag: int, values: list[str], keys: list[str], data: st.DataObject) -> None:
    part = ""
    if values and values[0]:  # a key made of the value matches more often than one that was made up
        start = data.draw(st.integers(0, len(values[0])))
        part = data.draw(st.sampled_from(["{}", "{}*", "*{}", "*{}*", "?{}*"])).format(values[0][start:][:40])
    matches, passes = found({tag: tuple(values)}, tag, (*keys, part))
    assert passes or not matches


def test_values_at_the_ends_of_what_can_be_compared_are_found() -> None:
    for tag in (ID, ACCESSION, DESCRIPTION, NAME):
        for value in ("A\0B", "A\U0010ffffB", "\U0010ffff", "A\U0010ffff\U0010ffff", "\0"):
            for key in (value, f"{value[0]}*", f"*{value[-1]}", "A*" if value[0] == "A" else "?*"):
                assert found({tag: (value,)}, tag, (key,)) == (True, True), (value, key)
    long = "\ufdfa" * 200 + "end"  # folds to 3,603 characters
    assert found({NAME: (long,)}, NAME, ("*end",)) == (True, True)


def test_long_lists_in_many_keys_are_answered() -> None:
    wanted = tuple(f"V{n}" for n in range(9_990))
    tags = ID, ACCESSION, DESCRIPTION, STUDY_ID
    keys = {tag: compile_key(tag, wanted) for tag in tags}
    table = StudyTable()
    table.put(
        [(n, StudyRow(PartId("1.2"), bytes(16), Merged(dict.fromkeys(tags, (f"V{n}",))))) for n in (1, 9_989, 9_990)]
    )
    assert {1, 9_989} <= set(table.candidates(keys))
    table.close()
