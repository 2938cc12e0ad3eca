"""The scanner against pydicom over every real file, and against everything that is no DICOM."""

import contextlib
import logging
import struct
import time
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.multival import MultiValue

from coffer.index.dicom.attributes import ATTRIBUTES
from coffer.index.dicom.elements import HeaderLimits
from coffer.index.dicom.headers import DataSetHeader, decode_identifier, scan, scan_early
from coffer.index.instance.entry import Identity, extract
from coffer.keys.errors import IdentifierError, InputError

EXPLICIT, IMPLICIT, BIG, DEFLATED = (f"1.2.840.10008.1.2{s}" for s in (".1", "", ".2", ".1.99"))
UNDEFINED = 0xFFFFFFFF


def header_of(data: bytes, syntax: str = EXPLICIT, limits: HeaderLimits | None = None) -> DataSetHeader:
    return scan(lambda start, stop: data[start:stop], len(data), syntax, limits)


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    long = vr in ("OB", "OW", "SQ", "UN", "UT", "UC", "UR")
    return head + (struct.pack("<xxI", size) if long else struct.pack("<H", size)) + value


def item(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content) if length is None else length) + content


ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def split(path: Path) -> tuple[bytes, str]:
    """The data set's bytes and transfer syntax of a Part 10 file."""
    raw = path.read_bytes()
    stream = BytesIO(raw)
    read_preamble(stream, True)
    meta = _read_file_meta_info(stream)
    return raw[stream.tell() :], str(meta.get("TransferSyntaxUID", IMPLICIT))


def judged(dataset: pydicom.Dataset, tag: int) -> tuple[str, ...]:
    value: Any = dataset[tag].value if tag in dataset else None
    if value is None or value == "":
        return ()
    values = value if isinstance(value, list | MultiValue) else [value]
    return tuple("" if v is None else str(v).strip(" \0").rstrip("=") for v in values)


@pytest.mark.filterwarnings("ignore")
def test_every_real_file_has_the_values_that_pydicom_reads(shared_data: Path) -> None:
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    checked = 0
    for path in sorted(p for p in (shared_data / "real").rglob("*") if p.is_file()):
        data, syntax = split(path)
        dataset = pydicom.dcmread(path)
        header = header_of(data, syntax)
        last = max(dataset.keys())  # pydicom ends at an element that it cannot read; dcmdump does not
        for tag, attribute in ATTRIBUTES.items():
            if tag > last:
                continue
            if attribute.vr == "SQ":
                items = len(dataset[tag].value) if tag in dataset else 0
                found = header.elements.get(tag)
                assert len(found.items if found else ()) == items, (path.name, hex(tag))
            else:
                values = tuple(v.strip().rstrip("=") for v in header.values(tag))
                assert values == judged(dataset, tag), (path.name, hex(tag))
        layout = extract(header, Identity("", "")).layout
        if layout is not None:
            assert data[layout.offset : layout.offset + layout.length] == dataset.PixelData, path.name
        checked += 1
    assert checked > 500


def test_a_header_read_early_is_the_header(shared_data: Path) -> None:
    """However much of a file has arrived: nothing yet, or what the whole file says, unless something follows."""
    early = complete = 0
    for path in sorted(p for p in shared_data.rglob("*") if p.is_file() and p.stat().st_size < 4 << 20):
        data, syntax = split(path) if path.is_relative_to(shared_data / "real") else (path.read_bytes()[132:], EXPLICIT)
        whole = header_of(data, syntax)
        for arrived in (len(data) // 3, len(data) - 1, len(data)):
            here = data[:arrived]
            header = scan_early(lambda start, stop, here=here: here[start:stop], syntax, HeaderLimits())
            if header is None:
                continue
            early += 1
            assert header.pixel is not None, path.name
            assert header.pixel.offset <= arrived, path.name
            if header.problem is None and header.pixel.offset + header.pixel.length == len(data):
                complete += 1
                assert header == whole, path.name
    assert early > complete > 500


@pytest.mark.filterwarnings("ignore")
def test_every_malformed_file_is_read_without_exception(shared_data: Path) -> None:
    files = sorted(p for p in (shared_data / "malformed").rglob("*") if p.is_file())
    for path in files:
        raw = path.read_bytes()
        for data, syntax in (
            (raw, EXPLICIT),
            (raw[132:], EXPLICIT),
            (raw[132:], IMPLICIT),
            (raw, DEFLATED),
            (raw, BIG),
        ):
            started = time.process_time()
            extract(header_of(data, syntax), Identity("1.2", "3.4"))
            assert time.process_time() - started < 2.5, path.name
    assert len(files) > 150


@given(st.binary(max_size=2000), st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED, "1.2.3"]))
def test_random_bytes_never_raise(data: bytes, syntax: str) -> None:
    extract(header_of(data, syntax), Identity("1.2", "3.4"))


@given(st.lists(st.tuples(st.sampled_from(sorted(ATTRIBUTES)), st.binary(max_size=40)), max_size=10), st.data())
def test_a_header_cut_or_flipped_anywhere_never_raises(fields: list[tuple[int, bytes]], data: st.DataObject) -> None:
    raw = b"".join(
        element(t, "SQ", item(element(0x00080100, "SH", v)))
        if ATTRIBUTES[t].vr == "SQ"
        else element(t, ATTRIBUTES[t].vr, v)
        for t, v in sorted(fields)
    )
    cut = data.draw(st.integers(0, len(raw)))
    flipped = bytearray(raw)
    if raw:
        flipped[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    for damaged in (raw[:cut], bytes(flipped)):
        extract(header_of(damaged), Identity("1.2", "3.4"))


def test_undefined_lengths_are_walked_and_wanted_items_kept() -> None:
    code = element(0x00080100, "SH", b"CT01") + element(0x00080104, "LO", b"Chest ")
    nested = element(
        0x00081140, "SQ", item(element(0x00081150, "UI", b"1.2\0") + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED
    )
    raw = nested + element(0x00081032, "SQ", item(code + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED)
    raw += element(0x00100020, "LO", b"PID1")
    header = header_of(raw)
    assert header.problem is None
    entry = extract(header, Identity("", ""))
    assert entry.study == {0x00081032: ({0x00080100: ("CT01",), 0x00080104: ("Chest",)},), 0x00100020: ("PID1",)}


@pytest.mark.parametrize("depth", [65, 10_000])
def test_deep_nesting_stops_at_the_limit(depth: int) -> None:
    raw = element(0x00080060, "CS", b"CT") + (element(0x00081140, "SQ", b"", UNDEFINED) + item(b"", UNDEFINED)) * depth
    header = header_of(raw)
    assert header.problem == "sequences nest deeper than the limit"
    assert header.text(0x00080060) == "CT"


def test_a_last_element_beyond_the_end_is_a_problem_but_what_came_before_counts() -> None:
    header = header_of(element(0x00080060, "CS", b"CT") + element(0x00100020, "LO", b"PI", 100))
    assert header.problem == "an element is longer than the data set"
    assert header.text(0x00080060) == "CT"
    assert 0x00100020 not in header.elements
    pixels = element(0x00280010, "US", b"\x02\0") + element(0x7FE00010, "OW", b"abcd", 0xFFFFFF00)
    cut = header_of(pixels)
    assert cut.problem == "an element is longer than the data set"
    assert cut.pixel is not None
    assert not cut.pixel.whole
    assert cut.pixel.length == 4


def test_elements_behind_the_pixel_data_are_read() -> None:
    raw = element(0x7FE00010, "OW", bytes(100_000)) + element(0x00100020, "LO", b"LATE")
    assert header_of(raw).text(0x00100020) == "LATE"


def test_the_element_and_time_limits_hold() -> None:
    raw = element(0x00090001, "LO", b"") * 5000
    assert header_of(raw, limits=HeaderLimits(elements=1000)).problem == "more elements than the limit"
    clock = iter(range(10_000))
    slow = HeaderLimits(seconds=3, clock=lambda: float(next(clock)))
    assert header_of(raw, limits=slow).problem == "took longer to read than the time limit"
    assert header_of(raw, limits=HeaderLimits(bytes=1000)).problem == "header is larger than the byte limit"


def test_a_big_object_is_not_loaded() -> None:
    head = element(0x00100020, "LO", b"BIG ") + element(0x00280010, "US", b"\x02\0")
    length = len(head) + 12 + (3 << 30)
    read_bytes = 0

    def read(start: int, stop: int) -> bytes:
        nonlocal read_bytes
        read_bytes += stop - start
        return (head + element(0x7FE00010, "OW", b"", 3 << 30))[start:stop].ljust(stop - start, b"\0")

    header = scan(read, length, EXPLICIT)
    assert header.problem is None
    assert header.pixel is not None
    assert header.pixel.length == 3 << 30
    assert read_bytes < 100_000


def test_a_deflate_bomb_is_bounded_and_a_deflated_header_read() -> None:
    def deflate(data: bytes) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(data) + packer.flush()

    header = header_of(deflate(element(0x00100020, "LO", b"ZIP1")), DEFLATED)
    assert (header.text(0x00100020), header.problem) == ("ZIP1", None)
    bomb = deflate(element(0x00091010, "LO", b"") * 4_000_000)
    assert header_of(bomb, DEFLATED, HeaderLimits(elements=10_000_000, seconds=60)).problem is not None


def test_a_deflate_bomb_takes_its_limit_of_memory_once() -> None:
    """The allocator keeps each copy of what was inflated, for every association that sends such an object."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = struct.pack("<HHHHI", 0x0009, 0x1000, 0x424F, 0, 64 << 20)
    bomb = packer.compress(head) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    try:
        assert header_of(bomb, DEFLATED).problem == "inflated header is larger than the limit"
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 16 << 20 <= most < 20 << 20


def test_mislabelled_syntaxes_are_read_as_what_they_are() -> None:
    explicit = element(0x00080060, "CS", b"MR") + element(0x00100020, "LO", b"PID1")
    assert header_of(explicit, IMPLICIT).text(0x00100020) == "PID1"
    implicit = struct.pack("<HHI", 0x0010, 0x0020, 4) + b"PID2"
    assert header_of(implicit, EXPLICIT).text(0x00100020) == "PID2"


def test_the_request_fills_what_the_data_set_lacks() -> None:
    entry = extract(header_of(element(0x0020000D, "UI", b"1.2.3\0")), Identity("1.2.840.1", "9.8.7"))
    assert (entry.study_uid, entry.series_uid, entry.sop_instance, entry.sop_class) == (
        "1.2.3",
        "",
        "9.8.7",
        "1.2.840.1",
    )
    own = extract(header_of(element(0x00080018, "UI", b"5.5 ")), Identity("1.2.840.1", "9.8.7"))
    assert own.sop_instance == "5.5"


@pytest.mark.filterwarnings("ignore")
def test_identifiers_are_decoded_with_their_character_set_and_items() -> None:
    query = pydicom.Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = "STUDY"
    query.PatientName = "Müller*"
    query.StudyInstanceUID = ["1.2", "1.3"]
    query.Rows = 512
    code = pydicom.Dataset()
    code.CodeValue = "X"
    query.ProcedureCodeSequence = [code]
    for implicit in (True, False):
        stream = BytesIO()
        pydicom.dcmwrite(stream, query, implicit_vr=implicit, little_endian=True)
        decoded = decode_identifier(stream.getvalue(), implicit=implicit)
        assert decoded.charset == ("ISO_IR 192",)
        assert decoded.text(0x00100010) == ("Müller*",)
        assert decoded.text(0x0020000D) == ("1.2", "1.3")
        assert decoded.text(0x00280010) == ("512",)
        assert decoded.values[0x00081032] == ({0x00080100: ("X",)},)


@given(st.binary(min_size=1, max_size=300), st.booleans())
def test_a_bad_identifier_is_an_input_error(data: bytes, implicit: bool) -> None:
    with contextlib.suppress(InputError):
        decode_identifier(data, implicit=implicit)


def test_identifier_limits() -> None:
    deep = (element(0x00081140, "SQ", b"", UNDEFINED) + item(b"", UNDEFINED)) * 9
    for data in (b"\0" * 3, deep, bytes(2 << 20), element(0x0020000D, "UI", b"\\".join([b"1"] * 10_001))):
        with pytest.raises(InputError):
            decode_identifier(data, implicit=False)


@pytest.mark.parametrize(
    ("tag", "vr", "raw", "expected"),
    [
        (0x0020000D, "UT", b"1.2\\1.3", ("1.2", "1.3")),
        (0x00100020, "UN", b"P1", ("P1",)),
        (0x00280010, "UL", b"\x00\x02\x00\x00", ("512",)),
        (0x00100020, "US", b"", ()),
        (0x00091001, "OB", b"any", ()),
    ],
)
def test_keys_are_read_as_their_attributes(tag: int, vr: str, raw: bytes, expected: tuple[str, ...]) -> None:
    assert decode_identifier(element(tag, vr, raw), implicit=False).values[tag] == expected


@pytest.mark.parametrize(("tag", "vr", "raw"), [(0x00100020, "US", b"\1\0"), (0x00280010, "IS", b"512 ")])
def test_a_key_of_another_kind_is_refused_by_its_name(tag: int, vr: str, raw: bytes) -> None:
    with pytest.raises(IdentifierError, match="another kind of VR") as raised:
        decode_identifier(element(tag, vr, raw), implicit=False)
    assert raised.value.offending == (tag,)
