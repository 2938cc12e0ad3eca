"""Text and numbers of element values, in and out of character sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.index.dicom.attributes import vr_of
from coffer.index.dicom.charset import decode_text, encode_text
from coffer.index.dicom.values import decode_value

CHARSETS = [
    (), ("",), ("ISO_IR 100",), ("ISO_IR 192",), ("GB18030",), ("", "ISO 2022 IR 87"), ("ISO_IR 13",), ("zlib",),
    ("idna",),    ("ISO 2022 IR 6", "ISO 2022 IR 149"), ("\\ISO 2022 IR 58",), ("utf_16",),
]  # fmt: skip


@given(
    st.binary(max_size=60), st.sampled_from(CHARSETS), st.sampled_from(["PN", "LO", "LT", "US", "DS", "AT", "UI", "ZZ"])
)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_give_some_text(raw: bytes, charset: tuple[str, ...], vr: str) -> None:
    for value in decode_value(0x00100010, vr, raw, charset):
        assert isinstance(value, str)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("text", "charset", "vr"),
    [
        ("Müller", ("ISO_IR 100",), "PN"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ("", "ISO 2022 IR 87"), "PN"),
        ("Hong^Gildong=洪^吉洞=홍^길동", ("", "ISO 2022 IR 149"), "PN"),
        ("Wang^XiaoDong=王^小东", ("GB18030",), "PN"),
        ("Люкceмбypг", ("ISO_IR 144",), "LO"),
        ("naïve\\日本", ("ISO_IR 192",), "LO"),
    ],
)
def test_text_goes_out_and_comes_back(text: str, charset: tuple[str, ...], vr: str) -> None:
    raw = encode_text(text, charset, vr)
    assert raw is not None
    assert decode_text(raw, charset, vr) == text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("charset", [(), ("ISO_IR 100",), ("ISO_IR 144",), ("", "ISO 2022 IR 149"), ("nonsense",)])
def test_what_cannot_be_carried_is_refused_not_replaced(charset: tuple[str, ...]) -> None:
    assert encode_text("Ω→語𝄞", charset, "LO") is None


@pytest.mark.parametrize(
    ("vr", "raw", "expected"),
    [
        ("UI", b"1.2.3\0", ("1.2.3",)),
        ("UI", b"1.2 ", ("1.2",)),
        ("LO", b"  A \\B ", ("A", "B")),
        ("LT", b"  a\\b  ", ("  a\\b",)),
        ("US", b"\x02\x01\x00\x02", ("258", "512")),
        ("FD", bytes(8), ("0.0",)),
        ("AT", b"\x08\x00\x18\x00", ("00080018",)),
        ("OB", b"abc", ()),
        ("SH", b"", ()),
        ("SH", b"   ", ()),
        ("UN", b"DOE^JOHN", ("DOE^JOHN",)),
    ],
)
def test_values(vr: str, raw: bytes, expected: tuple[str, ...]) -> None:
    assert decode_value(0x00100010, vr, raw, ()) == expected


def test_unknown_tags_have_a_vr() -> None:
    assert (vr_of(0x00090010), vr_of(0x00091001), vr_of(0x00080000), vr_of(0x12345678)) == ("LO", "UN", "UL", "UN")
