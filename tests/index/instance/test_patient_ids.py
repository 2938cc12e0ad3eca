"""What tells patients apart is whole, whatever the index cuts, leaves out or cannot decode to show."""

import struct

import pytest

from coffer.index.dicom.headers import scan
from coffer.index.index import Index
from coffer.index.instance.entry import Identity, InstanceEntry, could_be_extracted, extract
from coffer.index.instance.identity import Rules
from coffer.keys.keyring.keyring import Keyring
from tests.index.conftest import entry, version

STUDY_UID, PATIENT_ID, STUDY_SERIES = 0x0020000D, 0x00100020, 0x00201206


def read_entry(raw_id: bytes, *, charset: bytes = b"", vr: bytes = b"LO", issuer: bytes = b"") -> InstanceEntry:
    """The entry of a data set with this Patient ID, its bytes as given."""

    def element(tag: int, written: bytes, value: bytes) -> bytes:
        value += b" " * (len(value) % 2)
        length = struct.pack("<H", len(value)) if written != b"OB" else struct.pack("<HI", 0, len(value))
        return struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, written) + length + value

    data = element(0x00080005, b"CS", charset) if charset else b""
    data += element(0x00100020, vr, raw_id) + (element(0x00100021, b"LO", issuer) if issuer else b"")
    data += element(0x0020000D, b"UI", b"1.2")
    header = scan(lambda start, stop: data[start:stop], len(data), "1.2.840.10008.1.2.1", None)
    return extract(header, Identity("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"))


MANY = b"\\".join(b"%d" % number for number in range(16))
CJK = "\\".join(["\u6f22" * 100] * 16).encode()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (read_entry(MANY + b"\\AAA"), read_entry(MANY + b"\\BBB")),
        (read_entry(b"A\\" + b"x" * 300), read_entry(b"A\\" + b"y" * 300)),
        (read_entry(b"x" * 300), read_entry(b"y" * 300)),
        (read_entry(b"x" * 300), read_entry(b"")),
        (read_entry(CJK + b"1", charset=b"ISO_IR 192"), read_entry(CJK + b"2", charset=b"ISO_IR 192")),
        (read_entry(b"M\xc4LLER", charset=b"ISO_IR 192"), read_entry(b"M\xdcLLER", charset=b"ISO_IR 192")),
        (read_entry(b"A\0B"), read_entry(b"A B")),
        (read_entry(b"P1", vr=b"OB"), read_entry(b"P2", vr=b"OB")),
        (read_entry(b"P1", vr=b"OB"), read_entry(b"")),
        (read_entry(b"I", issuer=b"x" * 300), read_entry(b"I", issuer=b"y" * 300)),
        (read_entry(b"I", issuer=b"x" * 300), read_entry(b"I")),
        (read_entry(b"I"), read_entry(b"i")),
    ],
)
def test_what_an_index_does_not_keep_tells_patients_apart_all_the_same(
    one: InstanceEntry, other: InstanceEntry
) -> None:
    rules = Rules()
    assert rules.part_of(one, "") != rules.part_of(other, "")
    assert could_be_extracted(one)
    assert could_be_extracted(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (read_entry(b" P1 "), read_entry(b"P1\0")),
        (read_entry(b"M\xc3\x84LLER", charset=b"ISO_IR 192"), read_entry(b"M\xc4LLER", charset=b"ISO_IR 100")),
        (read_entry(b"  "), read_entry(b"")),
    ],
)
def test_padding_and_character_sets_make_no_other_patient(one: InstanceEntry, other: InstanceEntry) -> None:
    assert Rules().part_of(one, "") == Rules().part_of(other, "")


def test_an_id_in_a_wrong_character_set_is_found_and_shown_whole() -> None:
    assert read_entry(b"M\xc4LLER", charset=b"ISO_IR 192").study[0x00100020] == ("M\xc4LLER",)


def test_an_id_with_a_backslash_is_one_id(index: Index, keyring: Keyring) -> None:
    """PS3.6: Patient ID has one value. Where a sender wrote a backslash into it, its parts are nobody's ID."""
    for number, patient_id in enumerate(("AX", "AX\\BX")):
        made = entry(f"1.{number}", f"1.{number}.1", f"1.{number}.1.1", patient_id=patient_id)
        index.apply(version(number, key := keyring.new_study().key_id), key, made)

    def studies(model: str, *values: str) -> list[str]:
        asked = {PATIENT_ID: values, STUDY_UID: ()}
        return sorted(str(row[STUDY_UID][0]) for row in index.query("STUDY", asked, model))

    assert studies("patient", "AX") == studies("study", "AX") == ["1.0"]
    assert studies("patient", "AX", "BX") == ["1.1"]


def test_series_are_counted_alike_however_many_parts_a_view_has(index: Index, keyring: Keyring) -> None:
    keys = [keyring.new_study().key_id for _ in range(2)]
    index.apply(version(0, keys[0]), keys[0], entry("1.2", "", "1.2.0.1", issuer="X"))
    asked = {STUDY_UID: ("1.2",), STUDY_SERIES: ()}
    assert [row[STUDY_SERIES] for row in index.query("STUDY", asked, "study")] == [("1",)]
    index.apply(version(1, keys[1]), keys[1], entry("1.2", "", "1.2.0.2"))
    assert [row[STUDY_SERIES] for row in index.query("STUDY", asked, "study")] == [("1",)]
