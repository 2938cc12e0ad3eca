"""`coffer find` refuses what it would pass over, and cuts no value that the next command needs."""

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from coffer.server.cli import output
from tests.server.filled import run, told

DRAW = (
    "from coffer.server.cli import output\n"
    "output.table(['PatientName', 'StudyInstanceUID'], [('Doe^Peter', '1.2.840.' + '9' * 56), ('Roe', '1.2')])"
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        (["Modality=CT"], "Modality is of the series level", "use ModalitiesInStudy, or --level series"),
        (["--return", "Modality"], "Modality is of the series level", "use ModalitiesInStudy"),
        (["SOPClassUID=1.2"], "SOPClassUID is of the instance level", "use SOPClassesInStudy"),
        (["--level", "patient", "StudyDate=2024*"], "StudyDate is of the study level", "use --level study"),
        (["--return", "PixelData"], "PixelData is not among the attributes", "docs/conformance.md"),
        (["0009,0010=X"], "0009,0010 is not among the attributes", "docs/conformance.md"),
        (["StudyDate=hello"], "StudyDate='hello' is no date or range of dates", "a date is 20240131"),
        (["StudyDate=2024-01-31"], "StudyDate='2024-01-31' is no date", "a date is 20240131"),
        (["StudyTime=noon"], "StudyTime='noon' is no time", "a time is 0930"),
        (["NumberOfPatientRelatedStudies=2"], "is shown, and never compared", "use --return"),
        (["--level", "series"], "--level series needs the study: StudyInstanceUID=UID", "coffer find shows it"),
        (["--level", "instance", "StudyInstanceUID=1.2"], "needs the series: SeriesInstanceUID=UID", "--level series"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_a_search_would_pass_over_is_refused(words: list[str], cause: str, remedy: str) -> None:
    run("init")
    done = run("find", *words, code=12)
    assert cause in done.stderr
    assert remedy in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", [["StudyDate=*"], ["StudyDate="], ["StudyTime=2200-0600"], ["StudyDate=-20240131"]])
def test_what_it_does_compare_is_not(words: list[str]) -> None:
    run("init")
    assert json.loads(run("find", *words, "--json").stdout) == []


def test_a_new_archive_has_no_studies_and_says_so() -> None:
    run("init")
    assert json.loads(run("find", "--json").stdout) == []
    assert told("status")["objects"] == 0


@pytest.mark.parametrize(("columns", "is_drawn"), [(100, True), (72, False)])
def test_a_narrow_terminal_breaks_no_value(columns: int, is_drawn: bool) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    keep = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    subprocess.run([sys.executable, "-c", DRAW], stdout=theirs, env=keep | {"TERM": "xterm"}, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "1.2.840." + "9" * 56 in shown
    assert ("│" in shown) is is_drawn


def test_nothing_in_json_controls_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = 'A\x9b31m\u202eB"\\\u00e9\U000e0001'
    output.as_json({"name": name})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": name}
    assert printed.strip().isprintable()
    assert "\u00e9" in printed


@pytest.mark.parametrize("words", [["find", "PatientName"], ["find", "--bogus"], ["get"], ["nonsense"]], ids=" ".join)
def test_a_command_line_that_cannot_be_parsed_is_json_where_json_is_asked_for(words: list[str]) -> None:
    done = run(*words, "--json", code=2)
    told_of = json.loads(done.stderr)
    assert told_of["exit_code"] == 2
    assert told_of["error"]
    assert told_of["remedy"].endswith("--help")
