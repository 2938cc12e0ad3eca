"""The watch over the wall clock: what it notices, and what it lets pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.keys import clock
from coffer.keys.clock import TOLERANCE_MS, ClockWatch, Reading, Sighting, clock_ms, reading

NOW = Reading(1_760_000_000_000, 86_400_000, "a start")
TIMES = st.integers(0, 4_000_000_000_000)
PASSED = st.integers(0, 400_000_000_000)


def after(passed: int, jumped: int = 0, boot: str = NOW.boot) -> Reading:
    """Both clocks some time later."""
    return Reading(max(0, NOW.wall_ms + passed + jumped), NOW.boot_ms + passed, boot)


@given(PASSED, st.integers(-TOLERANCE_MS, TOLERANCE_MS))
def test_time_that_passes_and_small_corrections_are_no_jump(passed: int, corrected: int) -> None:
    assert ClockWatch.begin(NOW).look(after(passed, corrected)) is None


@given(PASSED, st.integers(TOLERANCE_MS + 1, NOW.wall_ms), st.sampled_from([-1, 1]), st.none() | TIMES)
def test_whatever_is_more_is_one(passed: int, jumped: int, sign: int, last: int | None) -> None:
    now = after(passed, sign * jumped)
    seen = ClockWatch.begin(NOW).look(now, last)
    assert seen == Sighting(now.wall_ms, NOW.wall_ms + passed, last)
    assert seen.earliest_ms == min(now.wall_ms, NOW.wall_ms + passed)


@given(st.lists(st.integers(-TOLERANCE_MS // 2, TOLERANCE_MS // 2), max_size=12))
def test_small_steps_add_up(steps: list[int]) -> None:
    watch, wrong = ClockWatch.begin(NOW), 0
    for number, step in enumerate(steps):
        wrong += step
        assert (watch.look(after(number, wrong)) is None) == (abs(wrong) <= TOLERANCE_MS)


@given(PASSED, TIMES, TIMES)
def test_another_start_of_the_machine_says_nothing_of_the_time_before(passed: int, wall: int, last: int) -> None:
    now = Reading(wall, passed, "another start")
    watch = ClockWatch.begin(NOW)
    assert not watch.is_of(now)
    assert watch.look(now) is None
    is_behind = wall < last - TOLERANCE_MS
    assert watch.look(now, last) == (Sighting(wall, None, last) if is_behind else None)


@given(TIMES, st.none() | TIMES, st.none() | TIMES)
def test_every_time_of_a_sighting_lies_between_its_earliest_and_its_latest(
    wall: int, expected: int | None, last: int | None
) -> None:
    seen = Sighting(wall, expected, last)
    assert seen.earliest_ms <= min(each for each in (wall, expected) if each is not None)
    assert seen.latest_ms == max(each for each in seen if each is not None)


def test_the_clocks_of_this_machine_are_read() -> None:
    first, second = reading(), reading()
    assert first.boot == second.boot != ""
    assert 0 < first.boot_ms <= second.boot_ms
    assert ClockWatch.begin(first).look(second, clock_ms()) is None


def test_a_process_that_is_halted_between_two_clocks_reads_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    boots = iter([0, 600_000, 600_000, 600_001])
    monkeypatch.setattr(clock, "_boot_ms", lambda: next(boots))
    assert reading().boot_ms == 600_000
    assert list(boots) == []


def test_without_proc_another_process_is_not_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def read_text(self, encoding: str) -> str:
            raise FileNotFoundError

    monkeypatch.setattr(clock, "_BOOT_ID", Gone())
    told = [clock._boot.__wrapped__() for _ in range(2)]
    assert told[0] != told[1]
