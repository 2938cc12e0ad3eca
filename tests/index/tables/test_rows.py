"""Row codecs, the order-independent merge, the watermark, and object meta."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.format.entry import Position, Tip
from coffer.index.instance.identity import PartId
from coffer.index.instance.object_meta import ObjectMeta
from coffer.index.instance.order import Order
from coffer.index.tables.applied import Anchor, Applied, AppliedLogs, Mark
from coffer.index.tables.rows import (
    InstanceRow,
    Merged,
    SeriesRow,
    StudyRow,
    Version,
    decode_row,
    encode_row,
)
from coffer.keys.errors import FormatError

VALUES = st.dictionaries(
    st.integers(0, 0xFFFFFFFF), st.lists(st.text(max_size=6), min_size=1, max_size=3).map(tuple), max_size=4
)
SMALL = st.dictionaries(st.integers(1, 3), st.sampled_from([("a",), ("b",), ("c", "d")]), max_size=3)


@given(VALUES, st.binary(min_size=32, max_size=32), st.integers(0, 2**40))
def test_rows_come_back_as_they_were(values: dict[int, tuple[str, ...]], content_id: bytes, number: int) -> None:
    version = Version.of(
        Position(0, number, 1, number, 3), number, content_id, "1.2", number, number, 1, "AE", Order(7, 1, 3)
    )
    merged = Merged().merge(Order(3, 0, 3), values).merge(Order(3, 0, 2), {7: ("x",)})
    items = values | {0x00400275: ({0x00400007: ("Head",)},)}
    for row in (
        StudyRow(PartId("1.2", "P", "X"), bytes(16), merged, 1, 1, 2, 0, {"CT": 2}, {"1.2": 2}, True, 3, 0, number),
        SeriesRow("1.2.3", merged, 5, 4),
        InstanceRow("1.2.3.4", "1.2", items, values, items, (version,), True),
    ):
        assert decode_row(type(row), encode_row(row)) == row
    assert version.position == Position(0, number, 1, number, 3)


@given(st.binary(max_size=100))
def test_junk_is_a_format_error(data: bytes) -> None:
    for kind in (StudyRow, SeriesRow, InstanceRow):
        with pytest.raises(FormatError):
            decode_row(kind, data)
    with pytest.raises(FormatError):
        ObjectMeta.decode(data)
    if len(data) not in {0, 96}:
        with pytest.raises(FormatError):
            AppliedLogs.decode(data)


@given(st.lists(SMALL, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_merging_gives_the_newest_values_in_any_order(
    records: list[dict[int, tuple[str, ...]]], random: object
) -> None:
    expected: dict[int, tuple[str, ...]] = {}
    for values in records:
        expected.update(values)
    # Two logs take turns, so that the numbers of the newer records are not the higher ones.
    numbered = [(Order(1000 + n, n % 2, 50 - n), values) for n, values in enumerate(records)]
    random.shuffle(numbered)  # type: ignore[attr-defined]
    merged = Merged()
    for order, values in numbered:
        merged = merged.merge(order, values)
    assert merged.values == expected


@given(st.permutations(range(12)))
def test_the_watermark_passes_only_what_is_complete(order: list[int]) -> None:
    applied = Applied()
    done: set[int] = set()
    for seq in order:
        applied.cover(seq)
        done.add(seq)
        assert applied.next_seq == next(n for n in range(13) if n not in done)


def _version_at(log: int, seq: int) -> Version:
    return Version.of(Position(log, seq, 1, 100 * seq, 9), seq, (seq + 1).to_bytes(32, "big"), "1.2", 9, 9, 0)


@given(st.permutations(range(1, 13)), st.dictionaries(st.integers(0, 11), st.integers(1, 13)))
def test_a_mark_is_a_known_tip_below_which_everything_is_applied(order: list[int], told: dict[int, int]) -> None:
    applied = Applied()
    applied.cover(0)
    for step, seq in enumerate(order):
        tip = Tip(2, told[step], bytes([told[step]]) * 32) if step in told else None
        applied.cover(seq, version=_version_at(2, seq), tip=tip)
        known = [end for at, end in told.items() if at <= step and end <= applied.next_seq]
        reached = max(known, default=None)
        if reached is None:
            assert applied.mark is None
            continue
        anchor = Anchor(reached - 1, 1, 100 * (reached - 1), reached.to_bytes(32, "big")) if reached > 1 else None
        assert applied.mark == Mark(Tip(2, reached, bytes([reached]) * 32), anchor)


def test_each_log_has_a_position_of_its_own() -> None:
    logs = AppliedLogs()
    logs.of(7).cover(0, version=_version_at(7, 0), tip=Tip(7, 1, b"7" * 32))
    logs.of(0).advance(Tip(0, 5, b"0" * 32))
    logs.of(3).cover(0)  # no tip is known
    assert list(logs.marks) == [0, 7]
    again = AppliedLogs.decode(logs.encode())
    assert again.marks == logs.marks
    assert again.marks[7] == Mark(Tip(7, 1, b"7" * 32), Anchor(0, 1, 0, (1).to_bytes(32, "big")))
    assert [again.of(log).next_seq for log in (0, 3, 7)] == [5, 0, 1]
    for wrong in (logs.encode()[96:] + logs.encode()[:96], logs.encode()[:96] * 2):
        with pytest.raises(FormatError, match="positions"):
            AppliedLogs.decode(wrong)


def test_object_meta_comes_back_and_other_versions_are_refused() -> None:
    meta = ObjectMeta(
        "1.2.840.10008.1.2.1",
        "1.2",
        "3.4",
        "5.6",
        "MODALITY",
        17,
        b"\2\0",
        bytes(128),
        Order(5, 1, 9),
        b"p" * 32,
        b"o" * 32,
    )
    assert ObjectMeta.decode(meta.encode()) == meta
    with pytest.raises(FormatError):
        ObjectMeta.decode(meta.encode().replace(b"\xa1v\x03", b"\xa1v\x02"))
    with pytest.raises(FormatError):
        ObjectMeta.decode(b"\x82" + meta.encode()[1:4] + b"\xa1z\x01")
