"""The scrub reads everything, at its pace, goes on after any stop, and tells what it finds before it moves on."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coffer.archive.format.record import HEADER, record_size
from coffer.archive.format.segment import HEADER as SEGMENT_HEADER
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.archive.verify.findings import Acknowledgement, FindingStore, RecordedFinding
from coffer.archive.verify.report import Finding
from coffer.archive.verify.scrub import Scrub, ScrubPosition, StoppedError, parse_position
from coffer.keys.errors import FormatError, KeyUnavailableError, NotFoundError
from coffer.keys.memory.secret import Secret
from tests.archive.conftest import FIRST_MS, SmallArchive, entry

SIZE = 900_000
KEY = Secret(b"\x07" * 32)
ONE = record_size(SIZE)


class Clock:
    def __init__(self) -> None:
        self.ms = FIRST_MS + 10_000_000

    def __call__(self) -> int:
        return self.ms


class Reading:
    """A scrub whose pace is counted, and may be stopped after so many bytes."""

    def __init__(self, small: SmallArchive, clock: Clock, stop_after: int | None = None) -> None:
        self.read = 0
        self.told: list[Finding] = []
        self.stop_after = stop_after
        self.clock = clock
        self.scrub = Scrub(
            small.folder,
            remembered=lambda: read_checkpoint(small.folder),
            now_ms=clock,
            pace=self._pace,
            on_finding=self.told.append,
        )

    def _pace(self, count: int) -> None:
        self.read += count
        self.clock.ms += 1000
        if self.stop_after is not None and self.read >= self.stop_after:
            raise StoppedError

    def whole_pass(self) -> "Reading":
        """Steps until the next pass begins, or until it is stopped."""
        before = self.scrub.position.passes
        try:
            while self.scrub.position.passes == before:
                self.scrub.segment()
        except StoppedError:
            self.scrub.save()
        return self


@pytest.fixture
def large(small: SmallArchive) -> SmallArchive:
    """Three segments of ten records of 900 kB, so that a segment takes several bites."""
    small.fill(25, size=SIZE, segment_bytes=SEGMENT_HEADER.size + 10 * ONE)
    small.checkpoint()
    assert len(small.segments()) == 3
    return small


@pytest.fixture
def clock() -> Clock:
    return Clock()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), offset)


def test_a_pass_reads_every_byte_once_and_tells_nothing(large: SmallArchive, clock: Clock) -> None:
    reading = Reading(large, clock).whole_pass()
    assert reading.read == sum(p.stat().st_size for p in large.segments())
    assert reading.told == []
    assert reading.scrub.position.passes == 1
    assert sorted(reading.scrub.position.verified) == [1, 2, 3]


def test_it_goes_on_where_it_stopped(large: SmallArchive, clock: Clock) -> None:
    total = sum(p.stat().st_size for p in large.segments())
    read = runs = 0
    while runs < 50:
        reading = Reading(large, clock, stop_after=3_000_000).whole_pass()
        read, runs = read + reading.read, runs + 1
        assert reading.told == []
        if reading.scrub.position.passes:
            break
    assert read == total
    assert runs >= 4


@pytest.mark.parametrize("seq", [0, 4, 9, 10, 17, 24])
def test_damage_anywhere_is_told_however_often_it_is_stopped(large: SmallArchive, clock: Clock, seq: int) -> None:
    large.damaged = True
    path = large.segments()[seq // 10]
    flip(path, SEGMENT_HEADER.size + seq % 10 * ONE + HEADER.size + 77)
    told: list[Finding] = []
    for _ in range(40):
        reading = Reading(large, clock, stop_after=2_000_000).whole_pass()
        told += reading.told
        if reading.scrub.position.passes:
            break
    assert [f.seq for f in told] == [seq]


def test_a_damaged_header_and_the_root(large: SmallArchive, clock: Clock) -> None:
    large.damaged = True
    flip(large.segments()[1], SEGMENT_HEADER.size + 3 * ONE + 60)
    assert [f.segment for f in Reading(large, clock).whole_pass().told] == [2]


def test_another_history_is_told(large: SmallArchive, clock: Clock, tmp_path: Path) -> None:
    large.damaged = True
    other = SmallArchive(tmp_path / "other")
    other.fill(25, first=100, size=SIZE, segment_bytes=SEGMENT_HEADER.size + 10 * ONE)
    for mine, theirs in zip(large.segments(), other.segments(), strict=True):
        mine.write_bytes(theirs.read_bytes())
    other.close()
    for stop_after in (None, 5_000_000):
        told: list[Finding] = []
        for _ in range(20):
            reading = Reading(large, clock, stop_after).whole_pass()
            told += reading.told
            if reading.scrub.position.passes:
                break
        assert [f.what for f in told] == ["the first 25 records are not those that were signed"]
        (large.folder.scrub / "place.json").unlink()


def test_missing_segments_and_a_damaged_checkpoint(large: SmallArchive, clock: Clock) -> None:
    large.damaged = True
    large.segments()[1].unlink()
    large.folder.checkpoint.write_bytes(b"nothing of the kind")
    told = {f.what for f in Reading(large, clock).whole_pass().told}
    assert "the segment is missing" in told
    assert any(what.startswith("the signed checkpoint:") for what in told)


def test_the_oldest_reading(large: SmallArchive, clock: Clock) -> None:
    scrub = Reading(large, clock).scrub
    created = scrub.oldest_ms()
    assert created is not None
    assert FIRST_MS <= created < clock.ms
    clock.ms += 50_000_000
    scrub.segment()
    assert scrub.oldest_ms() == scrub._begun_ms(2)
    scrub.segment()
    scrub.segment()
    oldest = scrub.oldest_ms()
    assert oldest is not None
    assert oldest >= FIRST_MS + 60_000_000
    assert Reading(large, clock).scrub.oldest_ms() == oldest


def test_a_lost_position_only_starts_again(large: SmallArchive, clock: Clock) -> None:
    Reading(large, clock, stop_after=12_000_000).whole_pass()
    place = large.folder.scrub / "place.json"
    for text in ("{", "[]", json.dumps({"segment": 1}), ""):
        place.write_text(text)
        assert Reading(large, clock).scrub.position.segment == 1
    assert Reading(large, clock).whole_pass().told == []


def test_it_reads_beside_a_writer(small: SmallArchive, clock: Clock) -> None:
    log = small.writer(segment_bytes=200_000)
    written = 0

    class Busy(Reading):
        def _pace(self, count: int) -> None:
            nonlocal written
            super()._pace(count)
            log.append([entry(written, 5000)])
            if written % 7 == 0:
                log.checkpoint(small.sign)
            written += 1

    reading = Busy(small, clock)
    for _ in range(3):
        log.append([entry(1000, 5000)])
        while reading.scrub.segment().segment:
            if written > 200:
                break
    assert reading.told == []
    assert written > 20
    log.close()


def test_an_empty_log(small: SmallArchive, clock: Clock) -> None:
    reading = Reading(small, clock)
    assert reading.scrub.segment().segment == 0
    assert reading.scrub.oldest_ms() is None


FLIPPED = Finding(2, 96, 7, "the body does not match its hash")
CUT = Finding(3, 500, None, "a record is cut")


@pytest.fixture
def ledger(tmp_path: Path) -> FindingStore:
    return FindingStore(tmp_path, key=KEY)


def test_a_finding_is_kept_once_until_it_is_answered(ledger: FindingStore, tmp_path: Path) -> None:
    made = ledger.add(FLIPPED, 5)
    assert made is not None
    assert ledger.add(FLIPPED, 6) is None
    assert [e.found_ms for e in FindingStore(tmp_path, key=KEY).open_entries()] == [5]
    assert ledger.acknowledge([made.name], 9) == FindingStore(tmp_path).entries()
    assert ledger.open_entries() == []
    assert ledger.add(FLIPPED, 10) is None
    assert ledger.open_entries() == []


def test_an_acknowledgement_counts_only_with_its_seal(ledger: FindingStore, tmp_path: Path) -> None:
    made = ledger.add(FLIPPED, 5)
    assert made is not None
    keyless = FindingStore(tmp_path)
    with pytest.raises(KeyUnavailableError):
        keyless.acknowledge([], 9)
    (true,) = ledger.acknowledge([], 9)
    assert keyless.open_entries() == [true]
    assert keyless.acknowledgement(true) is Acknowledgement.UNCHECKED
    other = replace(true, found_ms=6)  # of the same damage, found again later
    for planted in (
        replace(made, acknowledged_ms=9),
        replace(true, acknowledged_ms=8),
        other,
        other.sealed(Secret(b"\x08" * 32)),
    ):
        (tmp_path / f"{made.name}.finding").write_bytes(planted.serialize())
        assert ledger.open_entries() == [planted]
        assert ledger.acknowledgement(planted) is Acknowledgement.FOREIGN
    assert [each.found_ms for each in ledger.acknowledge([made.name], 10)] == [6]
    assert ledger.open_entries() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"found_ms": 1 << 62}, {"found_ms": -1}, {"acknowledged_ms": 253_402_300_800_000}, {"segment": 1 << 63},
        {"record": -1}, {"offset": -96}, {"seal": "0"}, {"kept": "../x"},
    ],
)  # fmt: skip
def test_a_planted_finding_with_impossible_values_is_refused(
    ledger: FindingStore, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    planted = replace(RecordedFinding(2, 96, 7, FLIPPED.what, 5), **wrong)
    (tmp_path / f"{planted.name}.finding").write_bytes(planted.serialize())
    with pytest.raises(FormatError, match="cannot be read"):
        ledger.entries()


@pytest.mark.parametrize("wrong", [{"offset": 1 << 64}, {"passes": 1 << 63}, {"verified": {1: 1 << 60}}])
def test_a_planted_position_with_impossible_values_is_none(wrong: dict[str, Any]) -> None:
    parse_position(ScrubPosition().serialize())
    with pytest.raises(FormatError):
        parse_position(replace(ScrubPosition(), **wrong).serialize())


def test_a_second_look_drops_what_is_mended_and_keeps_the_rest(ledger: FindingStore) -> None:
    ledger.add(FLIPPED, 1)
    ledger.add(CUT, 1)
    assert ledger.settle({1}, []) == []
    assert ledger.settle({2, 3}, [CUT])[0].segment == 2
    assert [e.segment for e in ledger.entries()] == [3]


def test_answers_to_what_is_not_there(ledger: FindingStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no finding 1-2-abc"):
        ledger.acknowledge(["1-2-abc"], 1)
    assert ledger.acknowledge([], 1) == []
    (tmp_path / "1-1-000000.finding").write_text("{}")
    with pytest.raises(FormatError):
        ledger.entries()


def test_names_tell_findings_apart() -> None:
    found = (FLIPPED, CUT, Finding(2, 96, 7, "another"), Finding(2, 97, 7, FLIPPED.what))
    assert len({RecordedFinding(f.segment, f.offset, f.seq, f.what, 0).name for f in found}) == 4
