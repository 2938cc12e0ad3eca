"""Every target of the fuzzer stands its seeds, what earlier runs found, and a bounded number of new inputs."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT, absent
from tests.fuzz.targets import TARGETS

VECTORS = sorted((Path(__file__).parent / "vectors").glob("*/*.bin"))
NAMES = sorted(TARGETS)


@st.composite
def changed(draw: st.DrawFn, name: str) -> bytes:
    """A seed with a few bytes replaced, cut out or put in."""
    data = bytearray(draw(st.sampled_from(TARGETS[name].seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_taken(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_was_found_once_is_not_found_again(path: Path) -> None:
    TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_changed_seeds_raise_nothing_unexpected(name: str, data: st.DataObject) -> None:
    TARGETS[name].run(data.draw(changed(name) | st.binary(max_size=200)))


@pytest.mark.parametrize("name", NAMES)
def test_a_short_run_with_feedback_from_coverage_finds_nothing(name: str, tmp_path: Path) -> None:
    if find_spec("atheris") is None:
        absent("atheris")
    command = [sys.executable, "-m", "tests.fuzz", "--target", name, "--runs", "5000", "--found", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 5000 runs" in done.stderr
