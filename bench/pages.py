"""Write the measurements into the pages that show them; sections that were not measured now stay as they are."""

import json
import sys
from pathlib import Path

from bench.figures import Figures
from bench.kit import ROOT
from bench.marked import with_part
from bench.report import KEYS, keys_section, readme_section, results_page

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
BY_HAND = "## By hand"


def section_of(page: str, head: str) -> str:
    """Return a section of a page with its heading, up to the next one of that level; empty if there is none."""
    _, found, rest = page.partition(head + "\n")
    return (found + rest.split("\n## ")[0]).strip()


def with_section(page: str, head: str, section: str) -> str:
    """Return the page with the section replaced, or inserted before the manual part if there was none."""
    old = section_of(page, head)
    if old:
        return page.replace(old, section)
    body, by_hand, rest = page.partition(BY_HAND + "\n")
    return f"{body.rstrip()}\n\n{section}\n" + (f"\n{by_hand}{rest}" if by_hand else "")


def replace_section(page: Path, section: str) -> None:
    """Replace what is between the markers of a page by the new table."""
    text = with_part(page.read_text(encoding="utf-8"), BEGIN, END, f"\n{section.strip()}\n")
    page.write_text(text, encoding="utf-8")


def write(figures: Figures, around: dict[str, str], *, with_keys: bool, keys_alone: bool) -> None:
    """Write RESULTS.md and the table of README.md. The manual part stays; so does the keys section without `with_keys`.

    With `keys_alone` only the keys section is written.
    """
    page = ROOT / "bench/RESULTS.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    keys = keys_section(figures, around) if with_keys else section_of(text, KEYS)
    if keys_alone:
        page.write_text(with_section(text, KEYS, keys), encoding="utf-8")
        print("written: a section of bench/RESULTS.md", file=sys.stderr)
        return
    before = [json.loads(line) for line in (ROOT / "bench/profile_before.jsonl").read_text().splitlines()]
    page.write_text(results_page(figures, around, before, [keys, section_of(text, BY_HAND)]), encoding="utf-8")
    replace_section(ROOT / "README.md", readme_section(figures, around))
    print("written: bench/RESULTS.md and the table of README.md", file=sys.stderr)
