"""Shreds that are refused: by holds, by the retention, and until enough officers have agreed."""

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from coffer.archive.events.holds import HoldAdded, HoldRemoved
from coffer.archive.events.officer import Officer
from coffer.archive.events.shreds import StudyShredded
from coffer.archive.format.record import Kind
from coffer.keys.clock import clock_ms
from coffer.keys.errors import AccessDeniedError
from coffer.keys.keyring import shred
from coffer.server.config.load import load_config
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.erasure.shred import Authorization, Shredding
from coffer.server.retention.holds import Hold, HoldAdmin, matching_holds
from coffer.server.retention.selection import PartToShred, by_study
from tests.server import three_studies
from tests.server.filled import part10, run, told
from tests.server.three_studies import (
    UIDS,
    codes,
    configure,
    events,
    found,
    put,
    slices,
)

archive = three_studies.archive


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("1.2.3.1", "--reason", "r"), 2),  # nobody to ask
        (("1.2.3.1", "--reason", " ", "--yes"), 12),
        (("--reason", "r", "--yes"), 2),
        (("1.2.3.1", "--patient", "P-4711", "--reason", "r", "--yes"), 2),
        (("1.2.3.1", "--yes"), 2),
        (("1.2.3", "--reason", "r", "--yes"), 5),
        (("--patient", "P-471*", "--reason", "r", "--yes"), 5),
        (("", "--reason", "r", "--yes"), 12),
        (("1.2.3.1", "--reason", "r", "--yes", "--officer", "\t"), 12),
        (("approve", "5f1c0a77"), 5),
        (("approve", "no id"), 5),
        (("cancel", "5f1c0a77"), 5),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(archive: Path, args: tuple[str, ...], code: int) -> None:
    run("shred", *args, code=code)
    assert found() == list(UIDS)


def test_a_hold_refuses_and_says_who_and_why(archive: Path) -> None:
    study = str(told("hold", "add", UIDS[0], "--reason", "court case", "--officer", "Meyer")["hold"])
    patient = told("hold", "add", "--patient", "P-99", "--reason", "trial", "--until", "2999-12-31")["hold"]
    refused = run("shred", "--patient", "P-4711", "--reason", "r", "--yes", code=10).output
    assert "Meyer" in refused
    assert "court case" in refused
    assert "trial" in run("shred", UIDS[2], "--reason", "r", "--yes", code=10).output
    run("shred", UIDS[1], "--reason", "r", "--yes")
    assert found() == [UIDS[0], UIDS[2]]
    holds = json.loads(run("hold", "list", "--json").stdout)
    assert [(each["study"], each["patient"], each["until"]) for each in holds] == [
        (UIDS[0], "", ""),
        ("", "P-99", "2999-12-31"),
    ]
    run("hold", "remove", study, "--officer", "Schmidt")
    run("hold", "remove", study, code=5)
    run("shred", UIDS[0], "--reason", "r", "--yes")
    assert codes(Kind.STATE) == ["hold.added", "hold.added", "hold.removed"]
    told_ = [msgspec.to_builtins(each) for each in events(HoldAdded, HoldRemoved)]
    assert not any({UIDS[0], "P-99"} & {str(value) for value in each.values()} for each in told_)
    run("hold", "add", "--reason", "r", code=12)
    run("hold", "add", UIDS[2], "--reason", "r", "--until", "2001-01-01", code=2)
    assert patient


class _Overtaken(Shredding):
    """A shred that is found allowed a moment before an officer puts a hold."""

    def __init__(self, engine: WritableArchive, hold: Hold) -> None:
        super().__init__(engine)
        self._late = [hold]
        self._holds = HoldAdmin(engine)

    def require_allowed(self, to_shred: Sequence[PartToShred]) -> None:
        super().require_allowed(to_shred)
        if self._late:
            self._holds.add(self._late.pop())


def test_a_hold_counts_from_the_moment_it_is_written(archive: Path) -> None:
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        late = Hold(UIDS[0], "", "court case", "", Officer("Meyer", "a"), clock_ms())
        deed = Authorization("r", (Officer("Braun", "a"),))
        with pytest.raises(AccessDeniedError, match="court case"):
            _Overtaken(engine, late).shred(by_study(engine, UIDS[0]), deed)
        assert not shred.tombstones(engine.keyring)
        late = Hold("", "P-99", "unrelated", "", Officer("Meyer", "a"), clock_ms())
        assert _Overtaken(engine, late).shred(by_study(engine, UIDS[1]), deed)  # asked again, and allowed
        engine.reconcile()
    assert found() == [UIDS[0], UIDS[2]]


def test_a_request_is_held_to_what_its_studies_are_when_it_is_approved(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 2")
    request = str(told("shred", "request", UIDS[0], "--reason", "r", "--officer", "Meyer")["request"])
    run("hold", "add", "--patient", "P-77", "--reason", "mixed up")
    moved = next(slices(UIDS[0], "P-77"))
    moved.SOPInstanceUID += ".9"
    Path("moved.dcm").write_bytes(part10(moved))
    run("put", "moved.dcm")
    assert "mixed up" in run("shred", "approve", request, "--officer", "Braun", code=10).output
    assert found() == [UIDS[0], *UIDS]  # once for each patient


def test_a_hold_that_is_over_holds_nothing(archive: Path) -> None:
    holds = [("5f", Hold(UIDS[0], "", "r", "2026-03-31", Officer("a", "b"), 0))]
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        parts = engine.index.parts(UIDS[0])
        assert len(matching_holds(holds, parts, dt.date(2026, 3, 31))) == 1
        assert not matching_holds(holds, parts, dt.date(2026, 4, 1))
        assert not matching_holds(holds, engine.index.parts(UIDS[1]), dt.date(2026, 3, 31))


def test_the_retention_refuses_and_names_the_day(archive: Path) -> None:
    configure("[retention]", "years = 100")
    assert "2124-01-" in run("shred", UIDS[0], "--reason", "r", "--yes", code=10).output
    assert "retention" in run("shred", "request", UIDS[0], "--reason", "r", code=10).output
    configure("[retention]", "years = 0.5")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    undated = next(slices("1.2.3.8", "P-8"))
    undated.StudyDate = ""
    Path("undated.dcm").write_bytes(part10(undated))
    run("put", "undated.dcm")
    run("shred", "1.2.3.8", "--reason", "r", "--yes", code=10)  # counts from its receipt


def test_two_officers_must_agree(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 3")
    assert "coffer shred request" in run("shred", UIDS[0], "--reason", "r", "--yes", code=10).output
    asked = told("shred", "request", "--patient", "P-4711", "--reason", "r", "--officer", "Meyer")
    request = str(asked["request"])
    assert asked["approvals_missing"] == 2
    put("1.2.3.7")  # comes in later: not covered
    assert "another officer" in run("shred", "approve", request, "--officer", " MEYER ", code=10).output
    assert told("shred", "approve", request, "--officer", "Schmidt")["state"] == "requested"
    run("shred", "approve", request, "--officer", "Schmidt", code=10)
    assert found() == [*UIDS, "1.2.3.7"]
    hold = str(told("hold", "add", UIDS[1], "--reason", "since yesterday")["hold"])
    assert "since yesterday" in run("shred", "approve", request, "--officer", "Braun", code=10).output
    run("hold", "remove", hold)
    assert told("shred", "approve", request, "--officer", "Braun")["studies"] == 2
    assert found() == [UIDS[2], "1.2.3.7"]
    run("shred", "approve", request, "--officer", "Weber", code=5)
    officers = [[each.name for each in event.officers] for event in events(StudyShredded)]
    assert officers == [["Meyer", "Schmidt", "Braun"]] * 2


def test_a_request_can_be_taken_back(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 2")
    request = str(told("shred", "request", UIDS[0], "--reason", "r")["request"])
    assert [each["request"] for each in told("shred", "list")["requests"]] == [request]  # type: ignore[attr-defined]
    run("shred", "cancel", request)
    run("shred", "approve", request, "--officer", "Schmidt", code=5)
    assert found() == list(UIDS)
    assert codes(Kind.STATE) == ["shred.requested", "shred.cancelled"]
