"""Log lines: text or JSON, and nothing of a patient in them, whatever is logged by mistake."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from keys.secret import Secret
from server import logs
from server.config import Log

UID = "1.2.826.0.1.3680043.8.498.12345.67890"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def written(settings: Log, **event: object) -> str:
    stream = io.StringIO()
    logs.configure(settings, stream)
    structlog.get_logger("test").info("something", **event)
    return stream.getvalue()


def test_json_is_one_object_per_line() -> None:
    line = written(Log(format="json"), count=3, ratio=0.5, none=None, calling_ae="PACS")
    told = json.loads(line)
    assert (told["event"], told["count"], told["calling_ae"], told["level"]) == ("something", 3, "PACS", "info")
    assert line.count("\n") == 1


@pytest.mark.parametrize("format_", ["text", "json"])
def test_uids_bytes_and_line_breaks_never_come_through(format_: str) -> None:
    line = written(
        Log(format=format_),
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


def test_an_exception_is_told_by_type_and_place_only() -> None:
    stream = io.StringIO()
    logs.configure(Log(format="json"), stream)
    try:
        raise ValueError("DOE^JANE")
    except ValueError:
        structlog.get_logger("test").exception("broke")
        logging.getLogger("some.library").exception("broke too")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["error"] for line in lines] == ["ValueError", "ValueError"]
    assert all("test_logs.py" in line["at"] for line in lines)
    assert "DOE" not in stream.getvalue()


def test_libraries_that_print_values_are_mute() -> None:
    stream = io.StringIO()
    logs.configure(Log(level="debug"), stream)
    for name in ("pynetdicom.acse", "pynetdicom", "pydicom", "pydicom.filereader"):
        logging.getLogger(name).critical("DOE^JANE")
    warnings.warn("Invalid value for VR UI: DOE^JANE", stacklevel=1)
    assert stream.getvalue() == ""


def test_the_level_is_kept() -> None:
    stream = io.StringIO()
    logs.configure(Log(level="warning"), stream)
    structlog.get_logger("test").info("quiet")
    structlog.get_logger("test").warning("loud")
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
