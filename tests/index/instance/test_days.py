"""Which day an object's retention counts from."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.index.instance.retention_day import retention_start

DAY_MS = 86_400_000


def at(text: str) -> int:
    """Milliseconds since 1970 UTC at the last second of a day."""
    return round(dt.datetime.fromisoformat(text + "T23:59:59+00:00").timestamp() * 1000)


@pytest.mark.parametrize(
    ("dates", "received", "day"),
    [
        (["20240131"], "2026-11-30", "20240131"),
        (["2024.01.31"], "2026-11-30", "20240131"),
        ([" 20240131 "], "2026-11-30", "20240131"),
        (["00010101"], "2026-11-30", "00010101"),
        (["20240131", "20250131", "19900101"], "2026-11-30", "20250131"),
        (["20240131", "no date"], "2026-11-30", "20240131"),
        ([], "2026-11-30", "20261130"),
        ([""], "2026-11-30", "20261130"),
        (["20230229"], "2026-11-30", "20261130"),
        (["2024013"], "2026-11-30", "20261130"),
        (["20240131-20240202"], "2026-11-30", "20261130"),
        (["\u0662\u0660240131"], "2026-11-30", "20261130"),
        (["20311130"], "2026-11-30", "20311130"),  # the clock here may be behind
        (["20991231"], "2026-11-30", "20261130"),  # nobody is examined 70 years after
        (["99991231", "20240131"], "2026-11-30", "20261130"),
        (["20240131"], "1970-01-01", "20240131"),  # that was no receipt
        (["20991231"], "1970-01-01", "20991231"),
        ([], "1970-01-01", "20250101"),
        (["19900101"], "2024-12-31", "19900101"),
        ([], "9999-12-31", "99991231"),
    ],
)
def test_the_day(dates: list[str], received: str, day: str) -> None:
    assert retention_start(dates, at(received)) == day


@given(st.lists(st.text() | st.dates().map("{:%Y%m%d}".format)), st.integers(0, 2**53))
def test_whatever_is_stored_has_a_day(dates: list[str], received_ms: int) -> None:
    day = retention_start(dates, received_ms)
    assert len(day) == 8
    assert dt.date(int(day[:4]), int(day[4:6]), int(day[6:]))


@given(st.dates(min_value=dt.date(1000, 1, 1)), st.dates(dt.date(2025, 1, 1), dt.date(2100, 1, 1)))
def test_a_date_shortens_nothing_below_what_it_says_unless_it_is_far_ahead(date: dt.date, received: dt.date) -> None:
    found = retention_start([f"{date:%Y%m%d}"], at(received.isoformat()))
    assert found in (f"{date:%Y%m%d}", f"{received:%Y%m%d}")
    assert found == f"{date:%Y%m%d}" or date > received + dt.timedelta(days=1825)
