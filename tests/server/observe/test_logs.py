"""Log lines: text or JSON, and nothing of a patient in them, whatever is logged by mistake."""

import contextlib
import datetime as dt
import io
import json
import logging
import os
import resource
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from coffer.keys.memory.secret import Secret
from coffer.server.config.settings import Logging
from coffer.server.observe import logs

UID = "1.2.826.0.1.3680043.8.498.12345.67890"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    hooks = threading.excepthook, sys.unraisablehook, sys.excepthook
    take, least = logs._take[0], logs._level[0]
    yield
    threading.excepthook, sys.unraisablehook, sys.excepthook = hooks
    logging.raiseExceptions = True
    logs._take[0], logs._level[0] = take, least
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def written(settings: Logging, **event: object) -> str:
    stream = io.StringIO()
    logs.configure(settings, stream)
    logs.get_logger().info("something", **event)
    return stream.getvalue()


def test_json_is_one_object_per_line() -> None:
    line = written(Logging(format="json"), count=3, ratio=0.5, none=None, calling_ae="PACS")
    told = json.loads(line)
    assert (told["event"], told["count"], told["calling_ae"], told["level"]) == ("something", 3, "PACS", "info")
    assert line.count("\n") == 1


@pytest.mark.parametrize("format_", ["text", "json"])
def test_uids_bytes_and_line_breaks_never_come_through(format_: str) -> None:
    line = written(
        Logging(format=format_),
        study=f"failed for {UID}, {UID}",
        raw=b"DOE^JANE",
        many=[UID, {"x": 1}],
        forged="x\nlevel=error event=forged",
        syntax="1.2.840.10008.1.2.1",
        address="192.168.1.20",
    )
    assert UID not in line
    assert "DOE" not in line
    assert logs.short_id(UID) in line
    assert "<8 bytes>" in line
    assert line.count("\n") == 1
    assert "1.2.840.10008.1.2.1" in line
    assert "192.168.1.20" in line


def test_text_is_in_columns_and_quoted_where_it_must_be() -> None:
    line = written(Logging(format="text"), name="a.b", cause="no room", empty="", count=2, many=["x", 1])
    stamp, rest = line.split(" ", 1)
    assert dt.datetime.fromisoformat(stamp).utcoffset() == dt.timedelta(0)
    assert rest == f"[info     ] {'something':<30} name=a.b cause='no room' empty= count=2 many=['x', 1]\n"


def test_text_is_coloured_on_a_terminal_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    logs.configure(Logging(format="text"), terminal)
    logs.get_logger().error("broke", name="a.b")
    assert "[\x1b[31m\x1b[1merror    \x1b[0m] \x1b[1mbroke" in terminal.getvalue()
    assert "\x1b" not in written(Logging(format="text"))


@pytest.mark.parametrize("format_", ["text", "json"])
def test_the_journal_gets_the_level_in_front_and_no_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    with (tmp_path / "journal").open("w+", encoding="utf-8") as journal:
        found = os.fstat(journal.fileno())
        for name in (f"{found.st_dev}:{found.st_ino}", f"{found.st_dev}:{found.st_ino + 1}"):
            monkeypatch.setenv("JOURNAL_STREAM", name)  # as systemd sets it (systemd.exec(5))
            logs.configure(Logging(format=format_), journal)
            logs.get_logger().warning("odd", name="a.b")
        journal.seek(0)
        inside, elsewhere = journal.read().splitlines()
    assert not elsewhere.startswith("<")
    if format_ == "text":
        assert inside == "<4>" + elsewhere.split(" ", 1)[1] == f"<4>[warning  ] {'odd':<30} name=a.b"
    else:
        assert json.loads(inside.removeprefix("<4>")).keys() == json.loads(elsewhere).keys()


def test_what_is_logged_before_the_configuration_is_seen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_level", [logging.INFO])
    monkeypatch.setattr(logs, "_take", [logs._write_unconfigured])
    logs.get_logger().warning("early", study=UID)
    told = capsys.readouterr()
    assert "early" in told.err
    assert UID not in told.err
    assert told.out == ""


def test_an_exception_is_told_by_type_and_place_only() -> None:
    stream = io.StringIO()
    logs.configure(Logging(format="json"), stream)
    try:
        raise ValueError("DOE^JANE")
    except ValueError:
        logs.get_logger().exception("broke")
        logging.getLogger("some.library").exception("broke too")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["error"] for line in lines] == ["ValueError", "ValueError"]
    assert all("test_logs.py" in line["at"] for line in lines)
    assert "DOE" not in stream.getvalue()


def test_libraries_that_print_values_are_mute() -> None:
    stream = io.StringIO()
    logs.configure(Logging(level="debug"), stream)
    for name in ("pynetdicom.acse", "pynetdicom", "pydicom", "pydicom.filereader"):
        logging.getLogger(name).critical("DOE^JANE")
    warnings.warn("Invalid value for VR UI: DOE^JANE", stacklevel=1)
    assert stream.getvalue() == ""


def test_the_level_is_kept() -> None:
    stream = io.StringIO()
    logs.configure(Logging(level="warning"), stream)
    logs.get_logger().info("quiet")
    logs.get_logger().warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_short_ids_are_keyed_and_stable() -> None:
    logs.use_id_key(Secret(b"1" * 32))
    first = logs.short_id(UID)
    assert first == logs.short_id(UID)
    assert first != logs.short_id(UID + "1")
    assert len(first) == 12
    logs.use_id_key(Secret(b"2" * 32))
    assert logs.short_id(UID) != first


def lines_of(reader: int, count: int) -> list[str]:
    """The next lines of a pipe."""
    data = b""
    while data.count(b"\n") < count:
        data += os.read(reader, 1 << 16)
    return data.decode().splitlines()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The reading end of a pipe, and a stream that writes to it."""
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    yield reader, stream
    # Not os.close: the sink's thread lives on, and must not write to a file that gets the same descriptor.
    with contextlib.suppress(OSError):
        stream.close()
    with contextlib.suppress(OSError):
        os.close(reader)


def test_a_reader_who_stops_reading_holds_up_nobody_and_is_told_what_he_missed(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    logs.configure(Logging(format="json"), stream)
    logs.run_in_background()
    log = logs.get_logger()
    for number in range(8000):
        log.info("a line of some length, so that the pipe is soon full", number=number)
        logging.getLogger("some.library").error("this one too")
    lost = logs.lost()
    assert lost > 0
    assert logs.is_losing()
    seen: list[str] = []
    while not any("log lines were lost" in line for line in seen):
        seen += lines_of(reader, 1)
    (told,) = (json.loads(line) for line in seen if "log lines were lost" in line)
    assert told["lines"] == lost
    assert all(json.loads(line)["event"] for line in seen[:-1])  # none of them is cut or mixed with another
    until(lambda: not logs.is_losing())
    assert logs.lost() == lost


def test_a_reader_who_is_gone_is_an_error_of_nobody(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    logs.configure(Logging(), stream)
    os.close(reader)
    logs.get_logger().info("nobody hears this")
    logging.getLogger("some.library").error("nor this")
    assert logs.lost() == 2
    logs.run_in_background()
    logs.get_logger().info("nor this")
    until(lambda: logs.lost() == 3)


def test_a_volume_that_is_full_takes_lines_again_when_it_can(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as stream:
        logs.configure(Logging(format="json"), stream)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))  # in the middle of a line
        try:
            logs.get_logger().info("this does not fit, but for its beginning")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        logs.get_logger().info("fits")
    lines = path.read_text().splitlines()
    assert len(lines[0]) == 50
    assert [json.loads(line)["event"] for line in lines[1:]] == ["fits"]
    assert logs.lost() == 1


@pytest.mark.parametrize("format_", ["text", "json"])
def test_without_a_stream_every_line_is_counted(format_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    logs.configure(Logging(format=format_))
    before = logs.lost()
    logs.get_logger().warning("nobody hears this")
    assert logs.lost() == before + 1


def test_what_cannot_be_made_a_line_of_stops_nothing() -> None:
    class Broken:
        def __str__(self) -> str:
            raise MemoryError

    stream = io.StringIO()
    logs.configure(Logging(), stream)
    logs.get_logger().info("cannot be said", what=Broken())
    logging.getLogger("some.library").error("%s", Broken())
    assert logs.lost() >= 1
    assert "cannot be said" not in stream.getvalue()


def test_a_library_that_repeats_itself_is_cut_short() -> None:
    stream = io.StringIO()
    logs.configure(Logging(), stream)
    for _ in range(1000):
        logging.getLogger("asyncio").error("socket.accept() out of system resource")
    assert len(stream.getvalue().splitlines()) == 20
