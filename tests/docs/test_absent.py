"""What is not there skips a test on a developer's machine and fails it in CI; no test decides that for itself."""

import re

import pytest

from tests.conftest import ROOT, absent

MAY_SKIP = {"tests/conftest.py", "tests/docs/test_absent.py", "tests/docs/test_docs.py"}  # the last: no git checkout


def test_what_is_absent_fails_in_ci_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COFFER_CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such peer"):
        absent("no such peer")
    monkeypatch.setenv("COFFER_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no such peer"):
        absent("no such peer")


def test_no_test_is_left_out_but_by_absent() -> None:
    leaves_out = re.compile(r"pytest\.(skip|importorskip)\(|\.(skip|skipif|xfail)\b")
    found = [
        name
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if (name := str(path.relative_to(ROOT))) not in MAY_SKIP and leaves_out.search(path.read_text())
    ]
    assert found == []
