"""Row codecs, the order-independent merge, the watermark, and object meta."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.format.entry import Position
from coffer.index.instance.identity import PartId
from coffer.index.instance.object_meta import ObjectMeta
from coffer.index.tables.applied import Applied
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
    version = Version.of(Position(number, 1, number, 3), content_id, "1.2", number, number, 1, "AE", 3)
    merged = Merged().merge(3, values).merge(2, {7: ("x",)})
    items = values | {0x00400275: ({0x00400007: ("Head",)},)}
    for row in (
        StudyRow(PartId("1.2", "P", "X"), bytes(16), merged, 1, 1, 2, 0, {"CT": 2}, {"1.2": 2}, True, 3, 0, number),
        SeriesRow("1.2.3", merged, 5, 4),
        InstanceRow("1.2.3.4", "1.2", items, values, items, (version,), True),
    ):
        assert decode_row(type(row), encode_row(row)) == row
    assert version.position == Position(number, 1, number, 3)


@given(st.binary(max_size=100))
def test_junk_is_a_format_error(data: bytes) -> None:
    for kind in (StudyRow, SeriesRow, InstanceRow):
        with pytest.raises(FormatError):
            decode_row(kind, data)
    with pytest.raises(FormatError):
        ObjectMeta.decode(data)
    if len(data) != 60:
        with pytest.raises(FormatError):
            Applied.decode(data)


@given(st.lists(SMALL, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_merging_gives_the_newest_values_in_any_order(
    records: list[dict[int, tuple[str, ...]]], random: object
) -> None:
    expected: dict[int, tuple[str, ...]] = {}
    for values in records:
        expected.update(values)
    numbered = list(enumerate(records, start=1))
    random.shuffle(numbered)  # type: ignore[attr-defined]
    merged = Merged()
    for seq, values in numbered:
        merged = merged.merge(seq, values)
    assert merged.values == expected


@given(st.permutations(range(12)))
def test_the_watermark_passes_only_what_is_complete(order: list[int]) -> None:
    applied = Applied()
    done: set[int] = set()
    for seq in order:
        applied.cover(seq)
        done.add(seq)
        assert applied.next_seq == next(n for n in range(13) if n not in done)
    assert Applied.decode(applied.encode()).next_seq == 12


def test_object_meta_comes_back_and_other_versions_are_refused() -> None:
    meta = ObjectMeta("1.2.840.10008.1.2.1", "1.2", "3.4", "5.6", "MODALITY", 17, b"\2\0", bytes(128), 5)
    assert ObjectMeta.decode(meta.encode()) == meta
    with pytest.raises(FormatError):
        ObjectMeta.decode(meta.encode().replace(b"\xa1v\x02", b"\xa1v\x01"))
    with pytest.raises(FormatError):
        ObjectMeta.decode(b"\x82" + meta.encode()[1:4] + b"\xa1z\x01")
