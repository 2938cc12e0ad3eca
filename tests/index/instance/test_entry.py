"""What the index keeps of one object: bounded in values, items and bytes, and of the right kind."""

import re
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.index.dicom.attributes import ATTRIBUTES, BINARY_VRS, ITEM_ATTRIBUTES
from coffer.index.dicom.bounds import ENTRY_BYTES, MOST_ITEMS, MOST_VALUES
from coffer.index.dicom.headers import scan
from coffer.index.dicom.matching import fold_name
from coffer.index.instance.entry import Identity, InstanceEntry, could_be_extracted, extract

EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
CHARSET, NAME, ID, DESCRIPTION, COMMENTS, CODES = 0x00080005, 0x00100010, 0x00100020, 0x00081030, 0x00104000, 0x00081032
ROWS, STUDY_UID, MODALITY, DATE = 0x00280010, 0x0020000D, 0x00080060, 0x00080020
LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
VRS = re.findall("..", "AEASATCSDADSDTFDFLISLOLTOBODOFOLOVOWPNSHSLSQSSSTSVTMUCUIULUNURUSUTUV")


def element(tag: int, vr: str, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + struct.pack("<xxI" if vr in LONG else "<H", len(value)) + value


def item(content: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def entry_of(data: bytes, syntax: str = EXPLICIT) -> InstanceEntry:
    return extract(scan(lambda start, stop: data[start:stop], len(data), syntax), Identity("1.2.3", "4.5.6"))


def kept(entry: InstanceEntry, tag: int) -> Sequence[object]:
    return (entry.study | entry.series | entry.image).get(tag, ())


def size_of(entry: InstanceEntry) -> int:
    """Bytes of all that is kept, as msgpack."""
    return len(msgspec.msgpack.encode((entry.study, entry.series, entry.image)))


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def test_a_sequence_of_everything_makes_no_large_entry() -> None:
    """76 KB sent, 15 MB inflated: 250 private elements of 1,000 characters in each of 60 items of a sequence."""
    private = b"".join(element((0x11 + 2 * (k // 200)) << 16 | 0x1000 + k % 200, "LO", b"A" * 1000) for k in range(250))
    entry = entry_of(deflated(element(CODES, "SQ", item(private) * 60)), DEFLATED)
    assert kept(entry, CODES) == ({},) * MOST_ITEMS
    assert size_of(entry) < 1024
    assert entry.problem == "a sequence has more items than the index keeps"


def test_the_items_of_a_sequence_hold_what_can_be_asked_for() -> None:
    code = element(0x00080100, "SH", b"CT01") + element(0x00080104, "LO", b"Chest ") + element(0x00091001, "LO", b"x ")
    nested = element(0x0040A168, "SQ", item(code))
    entry = entry_of(element(CODES, "SQ", item(code + nested)))
    assert kept(entry, CODES) == ({0x00080100: ("CT01",), 0x00080104: ("Chest",)},)
    assert entry.problem is None


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_every_attribute_filled_to_the_brim_stays_within_the_bound(syntax: str) -> None:
    """And what names the object and its patient comes first."""
    data = b""
    for tag, attribute in sorted(ATTRIBUTES.items()):
        raw = b"1.2" if attribute.vr == "UI" else b"\\".join([b"x" * 255] * 60)
        if attribute.vr == "SQ":
            text = b"y" * 1000
            inside = [
                element(t, vr, text) if syntax == EXPLICIT else implicit(t, text)
                for t, vr in sorted(ITEM_ATTRIBUTES[tag].items())
            ]
            raw = item(b"".join(inside)) * 60
        data += element(tag, attribute.vr, raw) if syntax == EXPLICIT else implicit(tag, raw)
    entry = entry_of(data, syntax)
    assert entry.problem is not None
    assert could_be_extracted(entry)
    assert size_of(entry) < ENTRY_BYTES + 2048
    assert (entry.study_uid, entry.series_uid, entry.sop_instance) == ("1.2",) * 3
    assert kept(entry, ID) == ("x" * 255,) * MOST_VALUES


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(ATTRIBUTES)), st.sampled_from(VRS), st.binary(max_size=60), st.integers(1, 300)
        ),
        max_size=12,
    ),
    st.sampled_from(
        [b"", b"\x1b", b"ISO_IR 192", b"\\ISO 2022 IR 87", b"\\".join([b"ISO 2022 IR 58"] * 200), b"\x1b" * 9000]
    ),
)
def test_whatever_comes_the_entry_is_bounded_and_of_the_kinds_it_should_be(
    fields: list[tuple[int, str, bytes, int]], charset: bytes
) -> None:
    data = element(CHARSET, "CS", charset) + b"".join(element(t, vr, raw * n) for t, vr, raw, n in sorted(fields))
    entry = entry_of(data)
    assert could_be_extracted(entry)
    assert size_of(entry) < ENTRY_BYTES + 8192
    for tag, values in (entry.study | entry.series | entry.image).items():
        assert len(values) <= MOST_VALUES
        for value in values:
            if ATTRIBUTES[tag].vr == "SQ":
                assert isinstance(value, Mapping)
                assert set(value) <= set(ITEM_ATTRIBUTES[tag])
            else:
                assert isinstance(value, str)
                if ATTRIBUTES[tag].vr in BINARY_VRS:
                    assert 0 <= int(value) <= 0xFFFF


@pytest.mark.parametrize(
    ("tag", "vr", "raw"),
    [
        (ID, "SQ", item(element(0x00080100, "SH", b"x ")) + item(element(0x00080100, "SH", b"y "))),
        (ID, "US", b"\x01\x00"),
        (ID, "AT", b"\x08\x00\x18\x00"),
        (ID, "OB", b"AB"),
        (NAME, "FD", bytes(8)),
        (STUDY_UID, "OW", b"1.2\0"),
        (ROWS, "IS", b"70000 "),
        (ROWS, "LO", b"X "),
        (ROWS, "UL", b"\x70\x11\x01\x00"),
        (ROWS, "SS", b"\xff\xff"),
        (ROWS, "SQ", item(b"")),
        (CODES, "LO", b"CT01"),
        (CODES, "US", b"\x01\x00"),
    ],
)
def test_a_value_of_another_kind_than_its_attribute_is_left_out_and_told(tag: int, vr: str, raw: bytes) -> None:
    entry = entry_of(b"".join(sorted([element(tag, vr, raw), element(MODALITY, "CS", b"CT")])))
    assert kept(entry, tag) == ()
    assert kept(entry, MODALITY) == ("CT",)
    assert entry.problem in (
        "a value is of another kind than its attribute",
        "a number is beyond the range of its attribute",
    )


@pytest.mark.parametrize(
    ("tag", "vr", "raw", "expected"),
    [
        (STUDY_UID, "LO", b"1.2 ", ("1.2",)),
        (DATE, "DS", b"20240131", ("20240131",)),
        (ID, "UN", b"P1", ("P1",)),
        (ROWS, "UN", b"\x00\x02", ("512",)),
        (ROWS, "UL", b"\x00\x02\x00\x00", ("512",)),
        (COMMENTS, "LO", b"a\\b ", ("a\\b",)),
        (ID, "OB", b"", ()),
        (CODES, "LO", b"", ()),
    ],
)
def test_a_value_of_the_same_kind_is_read_as_its_attribute(
    tag: int, vr: str, raw: bytes, expected: Sequence[str]
) -> None:
    entry = entry_of(element(tag, vr, raw))
    assert entry.problem is None
    got = (entry.study_uid,) if tag == STUDY_UID else kept(entry, tag)
    assert got == expected


def test_overlong_values_are_cut_but_never_names_that_would_then_be_others() -> None:
    overlong = b"A" * 4096
    for tag, vr, expected in ((DESCRIPTION, "LO", ("A" * 256,)), (NAME, "PN", ("A" * 256,)), (ID, "LO", ())):
        entry = entry_of(element(tag, vr, overlong))
        assert kept(entry, tag) == expected
        assert entry.problem == "a value is longer than the index keeps"
    uid = b"1." * 600
    entry = entry_of(element(0x00080018, "UI", uid) + element(STUDY_UID, "UI", uid))
    assert (entry.sop_instance, entry.study_uid) == ("4.5.6", "")
    data = element(0x00080016, "UI", b"1." * 65) + element(MODALITY, "CS", b"A" * 18)
    entry = entry_of(data)
    assert (entry.sop_class, kept(entry, MODALITY)) == ("1.2.3", ())
    assert kept(entry_of(element(MODALITY, "CS", b"CT\\MR ")), MODALITY) == ("CT",)
    whole = b"1." * 320
    assert entry_of(element(STUDY_UID, "UI", whole)).study_uid == whole.decode()


def test_what_the_standard_allows_is_kept_whole() -> None:
    name = "=".join("^".join(["山" * 20, "太" * 20, "郎" * 20]) for _ in range(3))
    data = (
        element(CHARSET, "CS", b"ISO_IR 192")
        + element(NAME, "PN", name.encode())
        + element(ID, "LO", b"I" * 64)
        + element(COMMENTS, "LT", b"c" * 10_240)
        + element(0x00420010, "ST", b"t" * 1024)
    )
    entry = entry_of(data)
    assert entry.problem is None
    assert kept(entry, NAME) == (name,)
    assert kept(entry, ID) == ("I" * 64,)
    assert kept(entry, COMMENTS) == ("c" * 10_240,)


def test_a_value_that_was_too_long_to_read_is_told() -> None:
    data = element(MODALITY, "CS", b"CT") + element(DESCRIPTION, "LO", b"x" * 20_000)
    header = scan(lambda start, stop: data[start:stop], len(data), EXPLICIT)
    assert header.problem == "a value is longer than the limit"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\x1b ", ("\x1b",)),
        (b"ISO_IR 100", ("ISO_IR 100",)),
        (b"\\ISO 2022 IR 87 ", ("", "ISO 2022 IR 87")),
        (b"  ", ()),
        (b"\\".join([b"X"] * 5000), ("X",) * 16),
        (b"Y" * 5000, ("Y" * 32,)),
    ],
)
def test_a_character_set_is_bounded_and_never_read_by_itself(raw: bytes, expected: Sequence[str]) -> None:
    data = element(CHARSET, "CS", raw) + element(NAME, "PN", b"Doe\x1b^Jane")
    header = scan(lambda start, stop: data[start:stop], len(data), EXPLICIT)
    assert header.charset == expected
    assert len(kept(entry_of(data), NAME)) == 1


def test_a_name_of_combining_marks_is_cut_before_it_is_ever_folded() -> None:
    name = ("a" + "\u0316\u0300" * 8000).encode()[:16382]
    (stored,) = kept(entry_of(element(CHARSET, "CS", b"ISO_IR 192") + element(NAME, "PN", name)), NAME)
    assert isinstance(stored, str)
    assert len(stored) <= 256
    assert sum(map(len, fold_name(stored))) <= 256


def test_a_value_full_of_switches_is_decoded_at_one_go() -> None:
    """Each switch of the character set costs a decoder of its own: 16,384 of them took a quarter of a second."""
    data = element(CHARSET, "CS", b"\\ISO 2022 IR 87 ") + element(DESCRIPTION, "LO", b"\x1b$B" * 5000)
    calls = 0

    def count(frame: object, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        entry = entry_of(data)
    finally:
        sys.setprofile(None)
    assert kept(entry, DESCRIPTION) == (("\x1b$B" * 86)[:256],)
    assert calls < 1000


@pytest.mark.parametrize(
    "more",
    [
        {"study_uid": "1" * 1025},
        {"sop_class": "1" * 129},
        {"study": {ID: ({0x00080100: ("x",)},)}},
        {"study": {ID: ("x",) * 17}},
        {"study": {COMMENTS: ("x" * 20_000,)}},
        {"study": {CODES: ("text",)}},
        {"study": {CODES: ({},) * 17}},
        {"study": {CODES: ({0x00091001: ("x",)},)}},
        {"study": {CODES: ({0x00080100: ("x" * 20_000,)},)}},
        {"study": {MODALITY: ("CT",)}},
        {"series": {MODALITY: ("CT", "MR")}},
        {"image": {0x00091001: ("x",)}},
    ],
)
def test_an_entry_that_no_data_set_makes_is_known(more: dict[str, Any]) -> None:
    made = entry_of(element(ID, "LO", b"P1"))
    assert could_be_extracted(made)
    assert not could_be_extracted(replace(made, **more))
