"""Every log to be held to the contract, also through a connection that loses calls and answers."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.archive.commit.commit_log import CommitLog
from tests.archive.commit.faulty import Patient, drawn
from tests.archive.commit.places import Place, folder_place, memory_place


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return folder_place(tmp_path / "archive") if request.param == "folder" else memory_place(tmp_path / "archive")


@pytest.fixture(params=["", "calls lost"])
def log(request: pytest.FixtureRequest, place: Place) -> Iterator[CommitLog]:
    made = place.log()
    if request.param:
        seed = random.randrange(1 << 32)
        print("seed", seed)
        made = Patient(drawn(made, seed))
    yield made
    made.close()
