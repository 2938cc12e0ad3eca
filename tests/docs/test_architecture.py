"""docs/architecture.md against the code: the rooms as they are, and the ways as they are walked now."""

import re
from pathlib import Path

import pytest

from bench.architecture import IDLE, PAGE, WAYS, Ways, rooms, seam_lines, seams, trace

REMEDY = "run: python -m bench.architecture --write"


def test_every_room_stands_there_with_its_sentence_and_its_modules() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [f"| `{name}` | {sentence} | {', '.join(modules)} |" for name, sentence, modules in rooms()]
    assert [row for row in rows if row not in text] == [], REMEDY
    assert len(re.findall(r"^\| `", text, re.MULTILINE)) == len(rows), REMEDY


def test_every_room_says_what_it_knows() -> None:
    assert [name for name, sentence, _ in rooms() if len(sentence) < 20] == []


def test_every_seam_stands_there_with_its_contract_and_what_implements_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [line for line in seam_lines() if line not in text.splitlines()] == [], REMEDY
    assert [seam for seam, _, made in seams() if len(made) < 2 and "api" not in seam] == []


def documented() -> Ways:
    """The ways as the page has them."""
    ways: Ways = {}
    for part in re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        lines = re.findall(r"^- \*\*(\w+)\*\*: (.*)$", part, re.MULTILINE)
        ways[part.split(":")[0]] = {role: re.findall(r"`([^`]+)`", line) for role, line in lines}
    return ways


@pytest.mark.timeout(300)
def test_every_way_is_walked_as_it_is_described(tmp_path: Path) -> None:
    """As sets: threads of one process may take turns. What a job does by itself may come into any way."""
    page, walked = documented(), trace(tmp_path)
    assert set(page) == set(WAYS)
    idle = {module for modules in walked[IDLE].values() for module in modules}
    for name, roles in page.items():
        for role, modules in roles.items():
            now = set(walked[name][role])
            assert not set(modules) - now - idle, f"{name}, {role}: not entered any more; {REMEDY}"
            assert not now - set(modules) - idle, f"{name}, {role}: entered and not described; {REMEDY}"
