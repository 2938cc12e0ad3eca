"""Part 10 files are split and made again byte for byte, and what is none is refused in a few words."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from coffer.keys.errors import InputError
from coffer.server.services.part10 import Part10, header_bytes, looks_like_uid, read_part10

DATA = b"\x08\x00\x16\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.2\x00"
CT, NAME, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", "1.2.840.10008.1.2.1"


def made(**changed: object) -> Part10:
    values = {
        "sop_class": CT,
        "sop_instance": NAME,
        "transfer_syntax": EXPLICIT,
        "preamble": b"",
        "file_meta": b"",
        "start": 0,
    }
    return Part10(**{**values, **changed})  # type: ignore[arg-type]


def test_what_is_made_is_read_by_us_and_by_pydicom() -> None:
    content = header_bytes(made(), "MODALITY") + DATA
    found = read_part10(io.BytesIO(content))
    assert (found.sop_class, found.sop_instance, found.transfer_syntax) == (CT, NAME, EXPLICIT)
    assert content[found.start :] == DATA
    again = dcmread(io.BytesIO(content))
    assert again.file_meta.MediaStorageSOPInstanceUID == NAME
    assert again.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert again.file_meta.FileMetaInformationGroupLength == len(content) - len(DATA) - 132 - 12
    assert again.SOPClassUID == CT


def test_a_stored_header_comes_back_as_it_was() -> None:
    content = bytearray(header_bytes(made()) + DATA)
    content[140] ^= 0xFF  # a wrong group length, as real files have
    found = read_part10(io.BytesIO(bytes(content)))
    assert header_bytes(found) + bytes(content[found.start :]) == content


def test_only_a_harmless_preamble_is_given_out() -> None:
    tiff = b"II*\0".ljust(128, b"\1")
    assert header_bytes(made(preamble=tiff))[:128] == tiff
    assert header_bytes(made(preamble=b"#!/bin/sh\n".ljust(128)))[:128] == bytes(128)


@pytest.mark.parametrize(
    ("content", "syntax"),
    [
        (DATA, "1.2.840.10008.1.2.1"),
        (b"\x08\x00\x05\x00\x0a\x00\x00\x00ISO_IR 100", "1.2.840.10008.1.2"),
        (b"\x00\x08\x00\x16UI\x00\x041.2\x00", "1.2.840.10008.1.2.2"),
    ],
)
def test_a_data_set_alone_is_taken_and_its_syntax_guessed(content: bytes, syntax: str) -> None:
    found = read_part10(io.BytesIO(content))
    assert (found.start, found.transfer_syntax, found.sop_instance) == (0, syntax, "")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty file"),
        (b"DICM".ljust(600, b"\0"), "cannot be read as DICOM"),
        (bytes(300) + b"DICM" + bytes(8), "cannot be read as DICOM"),
        (bytes(128) + b"DICM", "no data set"),
        (header_bytes(made()), "no data set"),
    ],
)
def test_a_file_without_an_object_is_refused(content: bytes, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        read_part10(io.BytesIO(content))


@pytest.mark.parametrize("content", [b"PK\x03\x04 something", b"x" * 4000, bytes(4000), b"\x08"])
def test_what_is_no_dicom_is_none(content: bytes) -> None:
    assert read_part10(io.BytesIO(content)) is None


def test_a_file_that_lacks_only_the_preamble_is_read() -> None:
    whole = header_bytes(made()) + DATA
    found, cut = read_part10(io.BytesIO(whole)), read_part10(io.BytesIO(whole[128:]))
    assert found is not None
    assert cut is not None
    assert (cut.sop_instance, cut.file_meta, cut.start) == (NAME, found.file_meta, found.start - 128)


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_read_or_refused(content: bytes, dicm: bool) -> None:
    whole = bytes(128) + b"DICM" + content if dicm else content
    try:
        found = read_part10(io.BytesIO(whole))
    except InputError:
        return
    if found is None:
        return
    assert 0 <= found.start <= len(whole)
    assert found.file_meta == whole[found.start - len(found.file_meta) : found.start]


def test_a_length_beyond_the_file_allocates_nothing() -> None:
    content = bytes(128) + b"DICM" + b"\x02\x00\x01\x00OB\x00\x00\xff\xff\xff\xff" + bytes(100)
    assert read_part10(io.BytesIO(content)).file_meta == b""


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("1.2.3", True),
        ("1" * 68, True),
        ("1" * 129, False),
        ("", False),
        ("..", False),
        (".1", False),
        ("1/2", False),
        ("1.2\0", False),
        ("1.2\n", False),
        ("١.٢", False),
    ],
)
def test_names_made_of_uids_are_safe(text: str, safe: bool) -> None:
    assert looks_like_uid(text) is safe


def test_every_storable_file_is_split_where_its_meta_ends(shared_data: Path) -> None:
    files = [p for p in sorted((shared_data / "real").rglob("*.dcm")) if p.stat().st_size < 1 << 20][::5]
    assert files
    for path in files:
        with path.open("rb") as file:
            try:
                found = read_part10(file)
            except InputError:
                continue
        content = path.read_bytes()
        if not found.preamble:
            continue
        assert content[128:132] + found.file_meta == content[128 : found.start], path
        assert content[found.start : found.start + 2] != b"\x02\x00", path
