"""What all records say of each other is compared by instance, and nothing but record numbers is told."""

from dataclasses import replace

from coffer.index.instance.entry import InstanceEntry
from coffer.index.instance.order import Order
from coffer.server.maintenance.version_order import VersionOrder, row_of

ENTRY = InstanceEntry("1.2", "1.2.3", "1.2.3.4", "1.2.840.10008.5.1.4.1.1.2", {}, {}, {}, None, "P1", "")


def content_id(number: int) -> bytes:
    return number.to_bytes(32, "little")


def row(seq: int, number: int, previous: int | None = None, entry: InstanceEntry = ENTRY) -> bytes:
    before = b"" if previous is None else content_id(previous)
    return row_of(entry, Order(1000 + seq, 0, seq), seq, content_id(number), before)


def found(*rows: bytes, lost: tuple[int, ...] = (), is_whole: bool = True) -> list[tuple[int | None, str]]:
    order = VersionOrder()
    for each in rows:
        order.add(each, ())
    order.add(b"", lost)
    return [(finding.seq, finding.what) for finding in order.findings(is_whole=is_whole)]


def test_each_instance_has_a_chain_of_its_own() -> None:
    others = [
        replace(ENTRY, study_uid="1.3"), replace(ENTRY, series_uid="1.3"), replace(ENTRY, sop_instance="1.3"),
        *(replace(ENTRY, sop_instance=f"1.3.{number}") for number in range(300)),
    ]  # fmt: skip
    rows = [row(seq, 7, entry=each) for seq, each in enumerate([*others, ENTRY])]
    assert found(*rows, row(900, 8, 7), row(901, 9, 7, others[0])) == []


def test_rows_may_come_joined_and_in_any_sequence() -> None:
    assert found(row(5, 2, 1) + row(9, 3, 2), row(1, 1)) == []


def test_a_finding_names_the_records() -> None:
    text = "version order contradicts this record: it "
    assert found(row(1, 2, 1), row(5, 1)) == [
        (1, text + "names a version before it, and there is none"),
        (5, text + "does not name record 1, the version before it"),
    ]


def test_a_predecessor_may_be_in_a_record_that_does_not_open_and_lies_between() -> None:
    gone = row(10, 1), row(20, 3, 2)
    assert found(*gone, lost=(1015,)) == []
    assert len(found(*gone)) == len(found(*gone, lost=(1009, 1021))) == 1
    assert found(row(20, 3, 2), lost=(3,)) == []
    assert len(found(row(20, 3, 2), lost=(1021,))) == 1


def test_what_follows_a_checkpoint_may_name_what_was_not_read() -> None:
    rows = row(20, 3, 2), row(21, 4, 3)
    assert found(*rows, is_whole=False) == []
    assert len(found(*rows)) == 1
    assert len(found(*rows, row(22, 6, 5), is_whole=False)) == 1
