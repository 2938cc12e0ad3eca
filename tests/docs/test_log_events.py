"""Every log line of Coffer has a stable name, and docs/log-events.md lists each name with its levels, and no other."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ("debug", "info", "warning", "error", "critical")
NAME = re.compile(r"[a-z]+(?:_[a-z]+)*\.[a-z]+(?:_[a-z]+)*")
ROW = re.compile(r"^\| `([^`]+)` \| ([a-z, ]+) \|", re.MULTILINE)


def is_logger(node: ast.expr) -> bool:
    """Whether an expression is a module's `_log`, or a logger that is made where it is used."""
    return isinstance(node, ast.Call | ast.Name) and ast.unparse(node).startswith(
        ("_log", "get_logger(", "logs.get_logger(")
    )


def logged(path: Path) -> Iterator[tuple[str, str]]:
    """The name and the level of each line that a module logs; a call without a name yields its place."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_logger(node.func.value):
            level = "error" if node.func.attr == "exception" else node.func.attr
            given = next((keyword.value for keyword in node.keywords if keyword.arg == "name"), None)
            is_text = isinstance(given, ast.Constant) and isinstance(given.value, str)
            yield str(given.value) if is_text else f"{path.relative_to(ROOT)}:{node.lineno}", level  # type: ignore[union-attr]


def names() -> dict[str, set[str]]:
    """Every name in the code, with its levels."""
    found: dict[str, set[str]] = defaultdict(set)
    for package in ("keys", "archive", "index", "server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for name, level in logged(path):
                found[name].add(level)
    found["log.lines_lost"].add("warning")  # written by the sink itself: the logger is what failed
    return found


def test_every_log_line_has_a_name_and_every_name_is_listed() -> None:
    found = names()
    assert [name for name in found if not NAME.fullmatch(name)] == []
    assert {level for levels in found.values() for level in levels} <= set(LEVELS)
    rows = ROW.findall((ROOT / "docs" / "log-events.md").read_text(encoding="utf-8"))
    listed = {name: set(levels.split(", ")) for name, levels in rows}
    assert listed == found
    assert [name for name, _ in rows] == sorted(listed)
