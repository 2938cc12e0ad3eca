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


def differences(page: Ways, walked: Ways) -> list[str]:
    """As sets: threads of one process may take turns. What a job does by itself may come into any way."""
    idle = {module for modules in walked[IDLE].values() for module in modules}
    found = []
    for name, roles in page.items():
        for role, modules in roles.items():
            now = set(walked[name][role])
            found += [f"{name}, {role}: {each} is not entered any more" for each in set(modules) - now - idle]
            found += [f"{name}, {role}: {each} is entered and not described" for each in now - set(modules) - idle]
    return found


@pytest.mark.timeout(600)
def test_every_way_is_walked_as_it_is_described(tmp_path: Path) -> None:
    """On a busy machine a job that did not run while the server idled may run in a way: it is walked again then."""
    page = documented()
    assert set(page) == set(WAYS)
    for attempt in range(3):
        (tmp_path / str(attempt)).mkdir()
        found = differences(page, trace(tmp_path / str(attempt)))
        if not found:
            return
    pytest.fail("\n".join([*found, REMEDY]))
