"""The table of docs/security/limits.md against the values in the code."""

import re

from bench.limits import PAGE, written
from coffer.server.config.settings import Dimse, Limits
from tests.conftest import ROOT


def test_the_table_has_the_values_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "run: python -m bench.limits --write"


def test_every_setting_that_it_names_exists() -> None:
    known = {f"dimse.{name}" for name in Dimse.__struct_fields__} | {f"limits.{n}" for n in Limits.__struct_fields__}
    named = set(re.findall(r"`((?:dimse|limits)\.[a-z_]+\*?)`", PAGE.read_text(encoding="utf-8")))
    assert {each for each in named if not each.endswith("*")} <= known


def test_every_log_line_that_it_names_is_documented() -> None:
    named = set(re.findall(r"log `([a-z_.]+)`", PAGE.read_text(encoding="utf-8")))
    events = (ROOT / "docs" / "log-events.md").read_text(encoding="utf-8")
    assert named
    assert all(f"`{name}`" in events for name in named)
