"""Records of several logs of one archive in one index."""

from collections.abc import Callable

import msgspec
import pytest

from coffer.archive.format.entry import RecordId
from coffer.index.index import Index
from coffer.keys.keyring.keyring import Keyring
from tests.index.conftest import entry, tip_above, version

STUDY_UID = 0x0020000D


@pytest.fixture(params=["folder", "memory"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every test on both."""
    return str(request.param)


def test_versions_in_several_logs_are_ordered_by_the_time_of_their_records(
    index: Index, keyring: Keyring, reopen: Callable[..., Index]
) -> None:
    """The newest has the lowest number; equal times are told apart by log and number."""
    key = keyring.new_study().key_id
    places = [(0, 7, 1000), (3, 9, 1001), (1, 8, 1002), (2, 2, 1002)]
    for log, seq, time_ms in reversed(places):
        one = msgspec.structs.replace(version(seq, bytes([log]) * 32), log=log, time_ms=time_ms)
        index.apply(one, key, entry("1.1", "1.1.1", "1.7", name=f"N{log}"), tip=tip_above(one))
    for is_again in (False, True):
        if is_again:
            index.close()
        asked = reopen() if is_again else index
        found = [each.located.version.position for each in asked.versions("1.7")]
        assert [(each.log, each.seq) for each in found] == [(log, seq) for log, seq, _ in places]
        assert [each.version.id for each in asked.locate({STUDY_UID: ("1.1",)})] == [RecordId(2, 2)]
        (row,) = asked.query("STUDY", {STUDY_UID: ("1.1",), 0x00100010: ()}, "study")
        assert row[0x00100010] == ("N2",)
        assert asked.marks == {}  # no log begins with these records


def test_each_log_is_followed_on_its_own(index: Index, keyring: Keyring, reopen: Callable[..., Index]) -> None:
    key = keyring.new_study().key_id
    for log, count in ((0, 3), (5, 2)):
        for seq in range(count):
            one = msgspec.structs.replace(version(seq, bytes([log, seq]) * 16), log=log)
            index.apply(one, key, entry("1.1", "1.1.1", f"1.7.{log}.{seq}"), tip=tip_above(one))
    index.mark_skipped(RecordId(5, 2))
    index.mark_skipped(RecordId(0, 3))
    index.close()
    again = reopen()
    assert {log: mark.tip.next_seq for log, mark in again.marks.items()} == {0: 3, 5: 2}
    assert again.applied_seq == 2  # of the archive's own log
    assert again.skipped == ((0, 3, 3), (5, 2, 2))
    again.cover(RecordId(5, 2))
    assert again.skipped == ((0, 3, 3),)
