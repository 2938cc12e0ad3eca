"""A bounded campaign of power cuts; `python -m tests.crash` runs long ones."""

import os
from pathlib import Path

import pytest

from tests.crash.campaign import Tally, one_run

RUNS = int(os.environ.get("COFFER_CRASH_RUNS", "24"))


@pytest.mark.parametrize("seed", range(RUNS))
def test_what_was_acknowledged_survives_a_power_cut_anywhere(seed: int, tmp_path: Path) -> None:
    tally = Tally()
    one_run(seed, tmp_path, tally, states_a_call=3)
    assert tally.states == 3 * tally.calls > 0
