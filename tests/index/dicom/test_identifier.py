"""Whatever a row holds, it can be answered, and text arrives as it was stored."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.index.dicom.attributes import ATTRIBUTES, COMPUTED, ITEM_ATTRIBUTES, Values
from coffer.index.dicom.headers import decode_identifier
from coffer.index.dicom.identifier import encode_identifier

NAME, ID, STUDY_UID, ROWS, FRAMES, CODES = 0x00100010, 0x00100020, 0x0020000D, 0x00280010, 0x00280008, 0x00081032
CHARSETS = [
    (), ("ISO_IR 100",), ("ISO_IR 192",), ("", "ISO 2022 IR 87"), ("ISO 2022 IR 6", "ISO 2022 IR 149"), ("GB18030",),
    ("nonsense",), ("\x1b",), ("ISO_IR 13",), ("", "ISO 2022 IR 58", "ISO 2022 IR 159"),
]  # fmt: skip
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["70000", "-1", "1e999", "nan", "X", "\x1b$B", "\0", "山田^太郎", "é\\ü"]
)
TAGS = st.sampled_from(sorted({*ATTRIBUTES, *COMPUTED, 0x00091001, 0x00080005, 0x00280106, 0x00281101, 0x00189074}))
ITEMS = st.dictionaries(st.sampled_from([*sorted(ITEM_ATTRIBUTES[CODES]), ROWS, CODES]), st.lists(TEXTS, max_size=3))


@pytest.mark.filterwarnings("ignore")
@given(
    st.dictionaries(TAGS, st.lists(TEXTS, max_size=3) | st.lists(ITEMS, max_size=3), max_size=8),
    st.sampled_from(CHARSETS),
    st.booleans(),
)
def test_any_row_can_be_encoded_and_read(row: Mapping[int, Values], charset: tuple[str, ...], implicit: bool) -> None:
    raw = encode_identifier(row, charset, implicit=implicit)
    assert set(decode_identifier(raw, implicit=implicit).values) >= {tag for tag in row if tag & 0xFFFF}


@pytest.mark.parametrize(
    ("tag", "values", "expected"),
    [
        (ROWS, ("X",), ()),
        (ROWS, ("70000",), ()),
        (ROWS, ("-1",), ()),
        (ROWS, ("512", "X"), ()),
        (ROWS, ("512", "256"), ("512", "256")),
        (ROWS, ({CODES: ()},), ()),
        (FRAMES, ("1e999",), ("1e999",)),
        (CODES, ("text",), ()),
        (CODES, ({ROWS: ("X",), 0x00080100: ("C1",)},), ({ROWS: (), 0x00080100: ("C1",)},)),
        (STUDY_UID, ("1.2.é",), ("1.2.é",)),
    ],
)
@pytest.mark.parametrize("implicit", [True, False])
def test_what_does_not_fit_goes_out_empty(tag: int, values: Values, expected: Values, implicit: bool) -> None:
    raw = encode_identifier({tag: values}, (), implicit=implicit)
    assert decode_identifier(raw, implicit=implicit).values[tag] == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("charset", CHARSETS)
def test_a_long_text_in_many_scripts_goes_out_whole(charset: tuple[str, ...]) -> None:
    """To look for the best set of each of its stretches would take time with the square of its length."""
    text = "aé山д" * 500
    raw = encode_identifier({0x00104000: (text,)}, charset, implicit=False)
    assert decode_identifier(raw, implicit=False).values[0x00104000] == (text,)
