"""A listing that goes on while what it lists changes: nothing is left out that is still there."""

import msgspec
import pytest

from coffer.index.index import Index
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.shred import drop, schedule
from tests.index.conftest import Filler

STUDY_UID, SERIES_UID, SOP_UID = 0x0020000D, 0x0020000E, 0x00080018


@pytest.fixture(params=["folder", "memory"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every test on both."""
    return str(request.param)


def test_a_study_that_gets_a_new_key_meanwhile_is_listed_to_its_end(
    index: Index, filler: Filler, keyring: Keyring
) -> None:
    made = [filler.add("1.1", "1.1.1", f"1.1.1.{number}") for number in range(9)]
    index.flush()
    located = index.locate({STUDY_UID: ("1.1",)})
    listed = index.query("IMAGE", {STUDY_UID: ("1.1",), SERIES_UID: ("1.1.1",), SOP_UID: ()}, "study")
    found, rows = [next(located)], [next(listed)]
    old, new, name = filler.key("1.1").key_id, keyring.new_study().key_id, index.study_token("1.1")
    moved = {each.id: msgspec.structs.replace(each, seq=each.seq + 20, study_key_id=new) for each in made}
    index.rekey(name, old, new, moved)
    index.flush()
    schedule(keyring, {old: name}, now_ms=1, until_ms=2)
    drop(keyring, [old])
    found, rows = [*found, *located], [*rows, *listed]
    assert [each.sop_instance for each in found] == [f"1.1.1.{number}" for number in range(9)]
    assert [each.version.seq for each in found[1:]] == list(range(21, 29))
    assert len(rows) == 9


def test_what_is_shredded_meanwhile_is_listed_no_more(index: Index, filler: Filler, keyring: Keyring) -> None:
    for number in range(9):
        filler.add("1.1", "1.1.1", f"1.1.1.{number}")
    index.flush()
    located = index.locate({STUDY_UID: ("1.1",)})
    next(located)
    schedule(keyring, {filler.key("1.1").key_id: index.study_token("1.1")}, now_ms=1, until_ms=2)
    assert list(located) == []
