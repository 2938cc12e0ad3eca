"""Converted data sets hold the same values: pydicom, which shares no code with the converter, is the judge."""

import contextlib
import csv
import io
import struct
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import datadict
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from coffer.keys.errors import InputError
from coffer.server.services.transcode import CONVERTIBLE, EXPLICIT_LE, IMPLICIT_LE, Converter

# Elements with an impossible VR, or longer than the file: sent as stored, but there is nothing to convert.
UNREADABLE = {"GH179A", "GH179B", "GH626"}


def convert(data: bytes, *, to_explicit: bool) -> bytes:
    return b"".join(Converter(lambda a, b: data[a:b], len(data), to_explicit=to_explicit).chunks())


def read(data: bytes, syntax: str) -> Dataset:
    return read_dataset(io.BytesIO(data), is_implicit_VR=syntax == IMPLICIT_LE, is_little_endian=True)


def flat(ds: Dataset, path: str = "") -> dict[str, bytes]:
    """Every leaf value as stored, by path; VRs may legitimately differ between the syntaxes."""
    out: dict[str, bytes] = {}
    for tag in sorted(ds._dict):
        element = ds.get_item(tag)
        name = f"{path}/{int(tag):08X}"
        if isinstance(element, RawDataElement) and not is_sequence(element):
            out[name] = (element.value or b"").rstrip(b" \0")
            continue
        if element.VR != "SQ" and not isinstance(element, RawDataElement):  # pydicom decodes a few while reading
            value = element.value
            text = b"" if value is None else value if isinstance(value, bytes) else str(value).encode()
            if isinstance(value, MultiValue):
                text = "\\".join(value).encode()
            out[name] = (struct.pack("<H", value) if isinstance(value, int) else text).rstrip(b" \0")
            continue
        items = ds[tag].value
        out[name] = str(len(items)).encode()
        for number, item in enumerate(items):
            out.update(flat(item, f"{name}[{number}]"))
    return out


def is_sequence(element: RawDataElement) -> bool:
    known = datadict.dictionary_has_tag(element.tag) and datadict.dictionary_VR(element.tag) == "SQ"
    return element.VR == "SQ" or element.length == 0xFFFFFFFF or (element.VR is None and known)


def sample() -> Dataset:
    ds = Dataset()
    ds.SOPInstanceUID = "1.2.3"
    ds.PatientName = "A^B"
    ds.PixelRepresentation = 1
    ds.SmallestImagePixelValue = -5
    item = Dataset()
    item.CodeValue = "X"
    inner = Dataset()
    inner.CodeMeaning = "deep"
    item.ModifierCodeSequence = [inner, Dataset()]
    ds.ProcedureCodeSequence = [item, Dataset()]
    ds.add_new(0x00091001, "LO", "private")
    ds.Rows, ds.Columns, ds.BitsAllocated = 2, 2, 16
    ds.PixelData = bytes(range(8))
    ds["PixelData"].VR = "OW"
    ds.DataSetTrailingPadding = b"\0" * 6
    return ds


def encode(ds: Dataset, syntax: str) -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, syntax == IMPLICIT_LE
    write_dataset(out, ds)
    return out.getvalue()


@pytest.mark.parametrize(("source", "target"), [(IMPLICIT_LE, EXPLICIT_LE), (EXPLICIT_LE, IMPLICIT_LE)])
def test_every_value_survives(source: str, target: str) -> None:
    data = encode(sample(), source)
    converted = convert(data, to_explicit=target == EXPLICIT_LE)
    assert flat(read(converted, target)) == flat(read(data, source))


def test_signed_values_get_a_signed_vr() -> None:
    converted = read(convert(encode(sample(), IMPLICIT_LE), to_explicit=True), EXPLICIT_LE)
    assert converted["SmallestImagePixelValue"].VR == "SS"
    assert converted.SmallestImagePixelValue == -5


def test_real_files(shared_data: Path) -> None:
    """Each uncompressed little-endian file of the shared data, there and back, value for value."""
    checked = 0
    with (shared_data / "files.csv").open() as table:
        paths = [
            r["path"]
            for r in csv.DictReader(table)
            if r["transfer_syntax_uid"] in CONVERTIBLE and r["path"].startswith("real/")
        ]
    for path in paths[:: max(1, len(paths) // 120)]:
        ds = pydicom.dcmread(shared_data / path, stop_before_pixels=False)
        source = str(ds.file_meta.TransferSyntaxUID)
        raw = (shared_data / path).read_bytes()
        if "FileMetaInformationGroupLength" not in ds.file_meta:
            continue
        start = 144 + ds.file_meta.FileMetaInformationGroupLength
        data = raw[start:]
        target = IMPLICIT_LE if source == EXPLICIT_LE else EXPLICIT_LE
        if Path(path).stem in UNREADABLE:
            with pytest.raises(InputError):
                convert(data, to_explicit=target == EXPLICIT_LE)
            continue
        there = convert(data, to_explicit=target == EXPLICIT_LE)
        back = convert(there, to_explicit=source == EXPLICIT_LE)
        original = flat(read(data, source))
        assert flat(read(there, target)) == original, path
        assert flat(read(back, source)) == original, path
        checked += 1
    assert checked > 50


@given(data=st.binary(max_size=400), to_explicit=st.booleans())
def test_garbage_is_refused_or_converted_but_never_breaks(data: bytes, to_explicit: bool) -> None:
    with contextlib.suppress(InputError):
        convert(data, to_explicit=to_explicit)


def test_bottomless_nesting_is_refused() -> None:
    head = struct.pack("<HHI", 0x0008, 0x1032, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(InputError, match="nest deeper"):
        convert(head * 5000, to_explicit=True)


def test_the_two_syntaxes_are_those_of_pydicom() -> None:
    assert {ExplicitVRLittleEndian, ImplicitVRLittleEndian} == CONVERTIBLE
