"""Shredding beside a running server: its answers are gone when the command returns, and the key before them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading
from tests.peers.coffer_process import CofferProcess, Peer, free_port
from tests.peers.dicom_client import find, get, move, store, synthetic
from tests.peers.test_phi import TextSearch
from tests.peers.ward import wait_until

STUDIES = 3
EACH = 5
MANY = 40


@pytest.fixture
def filled(new_coffer: Callable[..., CofferProcess]) -> CofferProcess:
    """A running server with three studies of five instances."""
    coffer = new_coffer([Peer("MOVEDST", free_port())])
    items = [synthetic(n, 900, study) for study in range(1, STUDIES + 1) for n in range(EACH)]
    assert {reply.status for reply in store(coffer.port, items)} == {0}
    return coffer


def uid(study: int) -> str:
    """The Study Instance UID of a synthetic study."""
    return f"1.2.826.0.1.3680043.8.498.77.{study}"


def found(coffer: CofferProcess, **keys: str) -> list[str]:
    """The studies that C-FIND finds."""
    rows = find(coffer.port, "STUDY", StudyInstanceUID=keys.pop("study", ""), **keys)
    return sorted(str(row.StudyInstanceUID) for row in rows)


def completed(coffer: CofferProcess, study: int) -> int:
    """How many instances C-GET gives of a study."""
    sample = synthetic(0)
    status = get(coffer.port, [(sample.sop_class, sample.transfer_syntax)], StudyInstanceUID=uid(study))
    return int(status.get("NumberOfCompletedSuboperations") or 0)


def test_a_running_server_answers_gone_at_once(filled: CofferProcess) -> None:
    assert found(filled) == [uid(1), uid(2), uid(3)]
    assert completed(filled, 1) == EACH
    told = filled.json("shred", uid(1), "--reason", "request 17", "--yes")
    assert isinstance(told, dict)
    assert (told["studies"], told["instances"]) == (1, EACH)
    assert found(filled) == [uid(2), uid(3)]
    assert found(filled, study=uid(1)) == found(filled, PatientID="KT-000001") == []
    assert completed(filled, 1) == 0
    assert completed(filled, 2) == EACH
    assert not move(filled.port, "MOVEDST", StudyInstanceUID=uid(1)).get("NumberOfCompletedSuboperations")
    assert filled.run("get", "--study", uid(1), check=False).returncode == 5
    assert "coffer_studies 2" in filled.metrics()


def test_a_retrieval_under_way_ends_where_the_shred_returns(filled: CofferProcess) -> None:
    assert {reply.status for reply in store(filled.port, [synthetic(n, 900, 7) for n in range(MANY)])} == {0}
    came: list[None] = []

    def taken() -> None:
        came.append(None)
        if len(came) == 2:
            filled.run("shred", uid(7), "--reason", "r", "--yes")

    sample = synthetic(0)
    status = get(filled.port, [(sample.sop_class, sample.transfer_syntax)], taken=taken, StudyInstanceUID=uid(7))
    # Two more had been opened before: the next objects are read while one is on its way.
    assert len(came) <= 4
    assert int(status.NumberOfFailedSuboperations) == MANY - len(came)


def test_a_shredded_study_that_is_sent_again_is_a_new_one(filled: CofferProcess) -> None:
    filled.run("shred", "--patient", "KT-000002", "--reason", "request 18", "--yes")
    again = [synthetic(n, 900, 2) for n in range(2)]
    assert {reply.status for reply in store(filled.port, again)} == {0}
    assert completed(filled, 2) == 2
    filled.stop()
    filled.run("index", "rebuild")
    filled.start()
    assert completed(filled, 2) == 2
    assert found(filled) == [uid(1), uid(2), uid(3)]
    verified = filled.json("verify", "--level", "decrypt")
    assert isinstance(verified, dict)
    assert (verified["findings"], verified["shredded"]) == ([], EACH + 1)  # and the record of the key itself


def test_a_running_server_goes_on_while_its_keys_move_and_the_old_epoch_is_destroyed(filled: CofferProcess) -> None:
    with open_reading(load_config(filled.config)) as engine:
        token = engine.index.study_token(uid(1))
    index = filled.archive / "index" / "data.mdb"
    wait_until(lambda: token in index.read_bytes())  # rows are written a moment behind the answers
    filled.run("shred", uid(1), "--reason", "r", "--yes")
    filled.run("shred", "finish", "--early")
    assert {reply.status for reply in store(filled.port, [synthetic(n, 900, 4) for n in range(2)])} == {0}
    filled.run("shred", "finish", "--early", "--destroy")
    wait_until(lambda: token not in index.read_bytes())  # `finish` waits for the server, but not for ever
    assert {reply.status for reply in store(filled.port, [synthetic(n, 900, 5) for n in range(2)])} == {0}
    for is_again in (False, True):
        if is_again:
            filled.stop()
            filled.start()
        assert [completed(filled, study) for study in (1, 2, 3, 4, 5)] == [0, EACH, EACH, 2, 2]
        assert filled.ready()
    epochs = filled.json("keys", "list")["epochs"]
    assert isinstance(epochs, list)
    assert [(each["state"], each["study_keys"]) for each in epochs] == [("destroyed", 0), ("active", 4)]


def test_nothing_that_names_the_study_is_left_or_added(filled: CofferProcess, tmp_path: Path) -> None:
    search = TextSearch({uid(3).encode(), b"KT-000003", b"Kill^Test3", b"3/2 3/2 3/2 3/2 "})
    filled.run("hold", "add", "--patient", "KT-000009", "--reason", "court case Kill^Test3", "--until", "2999-12-31")
    filled.run("shred", uid(3), "--reason", "asked by Kill^Test3", "--yes")
    assert not search.tree([filled.archive, filled.base / "tmp"])
    filled.stop()
    copy = tmp_path / "copy"
    shutil.copytree(filled.archive, copy)
    assert not search.tree([copy])
    assert not search.hits(filled.log.read_bytes())
