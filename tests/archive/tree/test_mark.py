"""The mark's file: it comes back as it was written, and nothing else is taken for one."""

import json
from hashlib import sha256

import pytest

from coffer.archive.format.group import NO_LINEAGE
from coffer.archive.store import checksummed_json
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.archive.tree.mark import Mark
from coffer.keys.errors import FormatError, HistoryError
from tests.archive.conftest import ORIGIN, SmallArchive
from tests.archive.trees import grow

MARK = Mark(bytes(range(16)), ORIGIN, f"{ORIGIN}+00000000+AAAA", 17, bytes(range(32)), 4, 1, bytes(range(16, 32)))


def test_it_comes_back_and_is_the_text_of_the_format() -> None:
    text = """{
 "type": "coffer/mark/v2",
 "archive": "000102030405060708090a0b0c0d0e0f",
 "origin": "archive.example/test",
 "vkey": "archive.example/test+00000000+AAAA",
 "size": 17,
 "root": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
 "keyring_generation": 4,
 "epoch": 1,
 "lineage": "101112131415161718191a1b1c1d1e1f"
}
"""
    assert MARK.serialize().decode() == f"{text}{sha256(text.encode()).hexdigest()}\n"
    assert Mark.parse(MARK.serialize()) == MARK


def test_every_flipped_or_cut_byte_is_found() -> None:
    data = MARK.serialize()
    for at in range(len(data)):
        for altered in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            with pytest.raises(FormatError):
                Mark.parse(altered)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "coffer/mark/v1"), ("archive", "00"), ("archive", "zz" * 16), ("root", "00" * 31), ("size", -1),
        ("size", True), ("size", 1 << 64), ("epoch", "1"), ("vkey", None), ("keyring_generation", 1.0), ("more", 1),
        ("root", "AA" * 32), ("lineage", "00" * 15), ("lineage", None),
    ],
)  # fmt: skip
def test_another_value_is_refused_although_its_checksum_is_right(name: str, value: object) -> None:
    told = json.loads(MARK.serialize().rsplit(b"\n", 2)[0])
    with pytest.raises(FormatError):
        Mark.parse(checksummed_json.serialize({**told, name: value}))


def test_what_contradicts_it_beside_the_log(small: SmallArchive) -> None:
    grow(small, 3)
    signed = read_checkpoint(small.folder)
    mark = Mark(small.folder.archive_id, ORIGIN, small.folder.vkey, signed.size, signed.root, 4, 0, NO_LINEAGE)
    assert mark.checkpoint == signed
    assert mark.objection(small.folder) is None
    assert mark.objection(small.folder, 4) is None
    assert isinstance(mark.objection(small.folder, 3), HistoryError)
    assert isinstance(MARK.objection(small.folder), HistoryError)
