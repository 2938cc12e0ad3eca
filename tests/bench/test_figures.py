"""The pure half of the bench: percentiles, ratios, verdicts and tables say what the lines say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Figures, figure, percentile
from bench.kit import COFFER, ORTHANC, STORESCP
from bench.pages import section_of, with_section
from bench.report import KEYS, fill_note, keys_section, readme_section, results_page, table, targets_table
from bench.targets import Check, checks, key_checks

AROUND = {"Date": "d", "Command": "c", "Machine": "m", "Orthanc": "1", "DCMTK": "3"}


def stored(peer: str, rate: float, **more: Any) -> dict[str, Any]:
    """One line of a C-STORE run of CT slices."""
    return {"bench": "store", "corpus": "ct", "assoc": 1, "peer": peer, "inst_s": rate, "server_cpu_ms": 2.0, **more}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    enough = len(values) * share / 100
    assert found in values
    assert sum(v <= found for v in values) >= enough
    assert found == min(values) or sum(v < found for v in values) < enough


@pytest.mark.parametrize(("values", "share"), [([], 50), ([1.0], 101), ([1.0], -1)])
def test_a_percentile_of_nothing_is_refused(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, share)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.12345, "0.123"), (12.345, "12.3"), (99.96, "100"), (12345.6, "12,346")]
)
def test_numbers_have_three_digits_that_say_something(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_a_ratio_compares_each_run_with_the_one_beside_it() -> None:
    # The machine was twice as fast in the second run and four times in the third: the ratio is 2 in all of them.
    rows = [stored(peer, rate) for f in (1, 2, 4) for peer, rate in ((ORTHANC, 100.0 * f), (COFFER, 200.0 * f))]
    rows += [stored(COFFER, 1.0)]  # an Orthanc that failed leaves one without a companion
    f = Figures(rows)
    assert f.ratio("inst_s", COFFER, ORTHANC, bench="store", corpus="ct") == 2
    assert f.ratio("inst_s", COFFER, ORTHANC, more_is_better=False, bench="store") == 0.5
    assert f.ratio("inst_s", COFFER, STORESCP, bench="store") is None


@pytest.mark.parametrize(
    ("value", "least", "aim", "lower", "verdict"),
    [
        (None, 1, 2, False, "not measured"),
        (0.9, 1, 2, False, "**missed**"),
        (1.0, 1, 2, False, "met"),
        (2.0, 1, 2, False, "met, aim too"),
        (11, 10, 5, True, "**missed**"),
        (5, 10, 5, True, "met, aim too"),
        (1.5, None, 1.0, False, "met, aim too"),
        (0.5, None, 1.0, False, "aim missed"),
        (2.6, 2.5, None, True, "**missed**"),
        (2.5, 2.5, None, True, "met"),
    ],
)
def test_a_verdict_follows_from_the_bounds(
    value: float | None, least: float | None, aim: float | None, lower: bool, verdict: str
) -> None:
    assert Check("w", "u", value, least, aim, lower_is_better=lower).verdict == verdict


def test_every_target_has_its_row_even_where_nothing_was_measured() -> None:
    found = list(checks(Figures([])))
    assert {check.verdict for check in found} == {"not measured"}
    assert len({(check.work, check.unit) for check in found}) == len(found) >= 30


def test_the_targets_table_judges_what_was_measured() -> None:
    rows = [stored(ORTHANC, 100.0), stored(STORESCP, 500.0), stored(COFFER, 350.0, rss_peak_mb=400.0)]
    lines = targets_table(Figures(rows)).splitlines()
    orthanc, storescp = (next(x for x in lines if f"association | × {peer}" in x) for peer in ("Orthanc", "storescp"))
    assert "| ≥ 3 |  | 3.5 | met |" in orthanc
    assert "350 objects/s; 2 ms CPU each; peak 400 MB; Orthanc 100/s" in orthanc
    assert "| ≥ 0.6 | ≥ 1 | 0.7 | met |" in storescp
    assert lines[-1].startswith(f"{len(lines) - 4} rows:")


def test_growth_is_told_in_percent_of_the_small_archive() -> None:
    rows = [{"bench": "growth", "studies": n, "cpu_ms": cpu, "p50_ms": 1} for n, cpu in ((200_000, 1.1), (1000, 1.0))]
    rows += [{"bench": "simulate", "objects": n, "cpu_us": us} for n, us in ((1000, 20.0), (1_000_000, 60.0))]
    by_work = {check.work: check.value for check in checks(Figures(rows))}
    assert by_work["growth: CPU per object, 1,000 to 200,000 studies"] == pytest.approx(10)
    assert by_work["growth by simulation to 1,000,000 studies: the index's file"] == pytest.approx(4)


def test_a_failure_is_told_on_the_page_and_the_part_by_hand_stays() -> None:
    rows = [stored(COFFER, 1.0), stored(ORTHANC, 0.0, error="ended"), stored(STORESCP, 1.0, failed=3)]
    page = results_page(Figures(rows), AROUND, [], ["## By hand\n\nkept\n"])
    assert "store orthanc+nd ct 1: ended" in page
    assert "3 instances refused" in page
    assert page.endswith("## By hand\n\nkept\n")
    assert "C-STORE CT 512x512, 525 KB, 1 assoc." in readme_section(Figures(rows), AROUND)


def rotated(**more: Any) -> dict[str, Any]:
    """The line of a rotation beside a server."""
    waits = {f"{when}_{key}_ms": 1.0 for when in ("alone", "beside") for key in ("p50", "p99", "max")}
    return {"bench": "keys", "studies": 1_000_000, "seconds": 50.0, "made": 1, "own_peak_mb": 50, **waits, **more}


def test_a_rotation_is_judged_by_time_memory_provider_and_what_a_sender_waits() -> None:
    assert {check.verdict for check in key_checks(Figures([]))} == {"not measured"}
    assert {check.verdict for check in key_checks(Figures([rotated()]))} == {"met"}
    for worse in ({"seconds": 61.0}, {"made": 2}, {"own_peak_mb": 101}, {"beside_p99_ms": 101.0}):
        assert [check.verdict for check in key_checks(Figures([rotated(**worse)]))].count("**missed**") == 1


def test_what_is_measured_by_its_name_alone_has_a_section_that_stays() -> None:
    section = keys_section(Figures([rotated()]), AROUND)
    page = results_page(Figures([]), AROUND, [], [section, "## By hand\n\nkept\n\n### more\n"])
    assert section_of(page, KEYS) == section
    assert section_of(page, "## By hand") == "## By hand\n\nkept\n\n### more"
    assert section_of(page, "## Nothing") == ""
    other = keys_section(Figures([rotated(seconds=77.0)]), AROUND)
    assert with_section(page, KEYS, other) == page.replace(section, other) != page
    without = results_page(Figures([]), AROUND, [], ["", "## By hand\n\nkept\n"])
    assert section_of(with_section(without, KEYS, section), KEYS) == section
    assert with_section(without, KEYS, section).endswith("## By hand\n\nkept\n")
    assert with_section("# Page\n\ntext\n", KEYS, section) == f"# Page\n\ntext\n\n{section}\n"


def test_a_table_is_markdown() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n|---|--:|\n| 1 | 2 |"


def test_an_archive_that_was_kept_has_no_rate() -> None:
    kept, fresh = ({"bench": "fill", "studies": 1000, "wall_s": s, "cached": not s} for s in (0, 2.0))
    assert fill_note(Figures([kept])) == "1,000 studies, kept from an earlier run"
    assert fill_note(Figures([fresh])) == "1,000 studies, filled now in 2 s, 500 studies/s"
