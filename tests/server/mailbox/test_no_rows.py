"""The server names no row of the keyring: what import-linter cannot see, calls that take a row's bytes."""

import ast
from pathlib import Path

SERVER = Path(__file__).resolve().parents[3] / "server"


def calls_with_rows(source: str) -> list[str]:
    """Calls of `amend` on anything, and of `row` and `rows` on a keyring."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of, name = ast.unparse(node.func.value), node.func.attr
            if name == "amend" or (name in {"row", "rows"} and of.split(".")[-1].strip("_") in {"keyring", "ring"}):
                found.append(ast.unparse(node))
    return found


def test_the_check_finds_each_kind_of_call() -> None:
    lines = ("self._keyring.row(b'C')", "archive.keyring.rows(b'P')", "keyring.amend([], [place])", "table.row(1)")
    assert [bool(calls_with_rows(line)) for line in lines] == [True, True, True, False]


def test_the_server_reads_and_writes_no_row_by_its_bytes() -> None:
    modules = sorted(SERVER.rglob("*.py"))
    assert len(modules) > 100
    assert {str(path): found for path in modules if (found := calls_with_rows(path.read_text(encoding="utf-8")))} == {}
