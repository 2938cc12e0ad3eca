"""C-FIND against a made-up archive: levels, hierarchy, return keys, computed keys, narrowing."""

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coffer.index.dicom.attributes import Values
from coffer.index.dicom.matching import compile_key
from coffer.index.index import Index
from coffer.index.query import query
from coffer.index.tables.candidates import StudyTable
from coffer.keys.errors import IdentifierError
from tests.index.conftest import Filler

STUDY_UID, SERIES_UID, SOP_UID, PATIENT_ID, NAME = 0x0020000D, 0x0020000E, 0x00080018, 0x00100020, 0x00100010
DATE, MODALITIES, ACCESSION, DESCRIPTION = 0x00080020, 0x00080061, 0x00080050, 0x00081030
MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture(params=["folder", "memory"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every test on both."""
    return str(request.param)


@pytest.fixture
def archive(index: Index, filler: Filler) -> Index:
    filler.add("1.1", "1.1.1", "1.1.1.1", name="Doe^Jane", patient_id="A", study_date="20240101", number="1")
    filler.add("1.1", "1.1.1", "1.1.1.2", name="Doe^Jane", patient_id="A", study_date="20240101", number="2")
    filler.add("1.1", "1.1.2", "1.1.2.1", name="Doe^Jane", patient_id="A", modality="MR", sop_class=MR_CLASS)
    filler.add("1.2", "1.2.1", "1.2.1.1", name="Doe^Jane", patient_id="A", study_date="20240601", accession="X1")
    filler.add("2.1", "2.1.1", "2.1.1.1", name="Müller^Eva", patient_id="B", study_date="20230101", modality="US")
    return index


def rows(index: Index, level: str, keys: Mapping[int, Values], model: str = "study") -> list[dict[int, Values]]:
    return sorted(index.query(level, keys, model), key=repr)


@pytest.mark.parametrize(
    ("level", "keys", "count"),
    [
        ("PATIENT", {PATIENT_ID: (), 0x00100040: ("X",)}, 40),
        ("STUDY", {STUDY_UID: (), 0x00080030: ("235959",)}, 40),
        ("IMAGE", {STUDY_UID: ("1.0",), SERIES_UID: ("1.0.1",), SOP_UID: (), 0x00200013: ("9999",)}, 82),
    ],
)
def test_a_search_that_finds_nothing_pauses(
    index: Index, filler: Filler, monkeypatch: pytest.MonkeyPatch, level: str, keys: dict[int, Values], count: int
) -> None:
    monkeypatch.setattr(query, "_PAUSE_SECONDS", 0.0)  # each row, and each series, takes longer
    for number in range(40):
        filler.add(f"1.{number}", f"1.{number}.1", f"1.{number}.1.1", patient_id=f"{number}")
    for number in range(2, 82):
        filler.add("1.0", "1.0.1", f"1.0.1.{number}", patient_id="0")
    model = "patient" if level == "PATIENT" else "study"
    assert list(index.query_in_steps(level, keys, model)) == [None] * count
    assert list(index.query(level, keys, model)) == []


def test_study_level_answers_every_key_that_was_asked(archive: Index) -> None:
    keys: dict[int, Values] = dict.fromkeys(
        (STUDY_UID, NAME, MODALITIES, 0x00080062, 0x00201206, 0x00201208, 0x00201200), ()
    )
    keys |= {PATIENT_ID: ("A",), 0x00091001: (), 0x0020000E: (), 0x00080054: ()}
    first, second = rows(archive, "STUDY", keys)
    assert set(keys) <= set(first)
    assert first[MODALITIES] == ("CT", "MR")
    assert first[0x00080062] == ("1.2.840.10008.5.1.4.1.1.2", MR_CLASS)
    assert (first[0x00201206], first[0x00201208], first[0x00201200]) == (("2",), ("3",), ("2",))
    assert (first[0x00091001], first[SERIES_UID]) == ((), ())
    assert second[STUDY_UID] == ("1.2",)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({NAME: ("doe*",)}, ["1.1", "1.2"]),
        ({NAME: ("müller^eva",)}, ["2.1"]),
        ({MODALITIES: ("MR",)}, ["1.1"]),
        ({MODALITIES: ("MR", "US")}, ["1.1", "2.1"]),
        ({MODALITIES: ("U?",)}, ["2.1"]),
        ({DATE: ("20240101-20240531",)}, ["1.1"]),
        ({DATE: ("20240101-",), ACCESSION: ("X*",)}, ["1.2"]),
        ({STUDY_UID: ("1.1", "2.1", "9.9")}, ["1.1", "2.1"]),
        ({STUDY_UID: ("*",)}, ["1.1", "1.2", "2.1"]),
        ({PATIENT_ID: ("b",)}, []),
        ({0x00080062: (MR_CLASS,)}, ["1.1"]),
        ({0x00201208: ("3",)}, ["1.1"]),
        ({}, ["1.1", "1.2", "2.1"]),
    ],
)
def test_study_matching(archive: Index, keys: dict[int, Values], expected: list[str]) -> None:
    assert [str(r[STUDY_UID][0]) for r in rows(archive, "STUDY", {STUDY_UID: ()} | keys)] == expected


def test_patient_level_gives_each_patient_once(archive: Index) -> None:
    keys = dict.fromkeys((PATIENT_ID, NAME, 0x00201200, 0x00201202, 0x00201204), ())
    first, second = rows(archive, "PATIENT", keys, "patient")
    assert [first[t] for t in keys] == [("A",), ("Doe^Jane",), ("2",), ("3",), ("4",)]
    assert second[NAME] == ("Müller^Eva",)


def test_series_and_image_levels(archive: Index) -> None:
    series = rows(
        archive, "SERIES", {STUDY_UID: ("1.1",), SERIES_UID: (), 0x00080060: ("MR",), 0x00201209: (), NAME: ()}
    )
    assert [(r[SERIES_UID], r[0x00201209], r[NAME]) for r in series] == [(("1.1.2",), ("1",), ("Doe^Jane",))]
    keys = {STUDY_UID: ("1.1",), SERIES_UID: ("1.1.1",), SOP_UID: (), 0x00200013: ("02",), 0x00083002: ()}
    (image,) = rows(archive, "IMAGE", keys)
    assert (image[SOP_UID], image[0x00083002]) == (("1.1.1.2",), ("1.2.840.10008.1.2.1",))
    assert rows(archive, "IMAGE", keys | {SOP_UID: ("1.2.1.1",), 0x00200013: ()}) == []
    assert rows(archive, "SERIES", {STUDY_UID: ("1.1",), SERIES_UID: ("2.1.1",)}) == []
    root = {PATIENT_ID: ("A",), STUDY_UID: ("1.1",), SERIES_UID: ()}
    assert len(rows(archive, "SERIES", root, "patient")) == 2
    assert rows(archive, "SERIES", root | {PATIENT_ID: ("B",)}, "patient") == []


@pytest.mark.parametrize(
    ("level", "model", "keys", "offending"),
    [
        ("", "study", {}, 0x00080052),
        ("study", "study", {}, 0x00080052),
        ("PATIENT", "study", {}, 0x00080052),
        ("STUDY", "other", {}, 0x00080052),
        ("SERIES", "study", {}, STUDY_UID),
        ("SERIES", "study", {STUDY_UID: ("1.1", "1.2")}, STUDY_UID),
        ("SERIES", "study", {STUDY_UID: ("1.*",)}, STUDY_UID),
        ("IMAGE", "study", {STUDY_UID: ("1.1",)}, SERIES_UID),
        ("STUDY", "patient", {STUDY_UID: ("1.1",)}, PATIENT_ID),
        ("STUDY", "patient", {PATIENT_ID: ("A*",)}, PATIENT_ID),
        ("STUDY", "study", {STUDY_UID: ("1.*",)}, STUDY_UID),
    ],
)
def test_broken_hierarchies_are_refused_at_the_call(
    archive: Index, level: str, model: str, keys: dict[int, Values], offending: int
) -> None:
    with pytest.raises(IdentifierError) as caught:
        archive.query(level, keys, model)
    assert caught.value.offending == (offending,)


def test_sequences_return_what_the_item_asks(index: Index, filler: Filler) -> None:
    made = filler.add("1.1", "1.1.1", "1.1.1.1")
    version, key_id, entry = filler.history[-1]
    entry.study[0x00081032] = ({0x00080100: ("CT1",), 0x00080102: ("DCM",)},)
    index.clear()
    index.apply(version, key_id, entry)
    asked = {STUDY_UID: (), 0x00081032: ({0x00080100: ("CT1",), 0x00080104: ()},)}
    (row,) = rows(index, "STUDY", asked)
    assert row[0x00081032] == ({0x00080100: ("CT1",), 0x00080104: ()},)
    assert rows(index, "STUDY", {0x00081032: ({0x00080100: ("MR1",)},)}) == []
    (whole,) = rows(index, "STUDY", {0x00081032: ()})
    assert whole[0x00081032] == entry.study[0x00081032]
    assert made.seq == 0


TEXT = st.text("abAÄß *?=^1[%", min_size=1, max_size=6)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=6),
    st.sampled_from([NAME, PATIENT_ID, DESCRIPTION]),
    TEXT,
)
def test_narrowing_never_loses_a_match(stored: list[tuple[str, str, str]], tag: int, key: str) -> None:
    from coffer.index.instance.identity import PartId
    from coffer.index.tables.rows import Merged, StudyRow

    table = StudyTable()
    studies = [
        StudyRow(
            PartId(str(i), p.strip()),
            bytes(16),
            Merged({NAME: (n,), PATIENT_ID: (p.strip(),), DESCRIPTION: (d,)}, {}, 1),
        )
        for i, (n, p, d) in enumerate(stored)
    ]
    table.put(enumerate(studies))
    compiled = compile_key(tag, (key,))
    matching = {i for i, row in enumerate(studies) if compiled.matches(row.attributes.values[tag])}
    assert matching <= set(table.candidates({tag: compiled}))
    table.close()
