"""Character sets: the same codecs as pydicom, which decodes what switches between several."""

import pydicom.charset
import pytest

from coffer.index.dicom.charset import decode_text, encode_text


@pytest.mark.parametrize("term", pydicom.charset.python_encoding)
def test_each_term_is_decoded_as_pydicom_does(term: str) -> None:
    codec = pydicom.charset.python_encoding[term]
    every = bytes(range(0x20, 0x7F)) + bytes(range(0xA0, 0x100))
    assert decode_text(every, (term,)) == every.decode(codec, "replace")


@pytest.mark.parametrize("term", pydicom.charset.STAND_ALONE_ENCODINGS)
def test_a_set_that_stands_alone_has_no_extensions(term: str) -> None:
    assert encode_text("Иван", (term, "ISO 2022 IR 144"), "LO") == "Иван".encode(pydicom.charset.python_encoding[term])


@pytest.mark.parametrize("delimiter", ["\r", "\n", "\t", "\f", "^"])
def test_a_delimiter_resets_code_extensions(delimiter: str) -> None:
    """PS3.5 6.1.2.5.3: what follows is in the first set again."""
    charset = ("", "ISO 2022 IR 144")
    raw = b"\x1b-L" + "Иван".encode("iso8859_5") + delimiter.encode() + b"\xe4"
    assert decode_text(raw, charset, "PN") == f"Иван{delimiter}ä"
