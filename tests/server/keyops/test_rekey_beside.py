"""Rekeys beside others: requests to shred, other processes, stores that come in meanwhile, a server."""

import copy
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from coffer.archive.events.rekeys import StudyRekeyed
from coffer.keys.errors import SupersededError
from coffer.keys.keyring import rekey
from coffer.server.access.principal import Principal
from coffer.server.engine.rekey import Rekeyer
from coffer.server.keyops.rekey_order import one_study, order
from coffer.server.main.demo import encoded
from coffer.server.services.api import StoreRequest
from tests.server import rekeyed
from tests.server.filled import run, status, told
from tests.server.rekeyed import COMMAND, EXPLICIT_LE, STUDY, engine, got, index_rows, key_ids, stop_in
from tests.server.served import COFFER, serving
from tests.server.three_studies import UIDS, configure, events, found, slices
from tests.services import services

archive = rekeyed.archive


def test_a_request_to_shred_follows_the_study_to_its_new_key(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 2")
    request = str(told("shred", "request", STUDY, "--reason", "r", "--officer", "Meyer")["request"])
    run(*COMMAND)
    run(*COMMAND)
    run("shred", "approve", request, "--officer", "Schmidt")
    assert found() == list(UIDS[1:])
    run("index", "rebuild")
    assert found() == list(UIDS[1:])
    whys = [each["why"] for each in told("shred", "list")["shreds"]]  # type: ignore[attr-defined]
    assert sorted(whys) == ["rekeyed", "rekeyed", "shredded"]


def test_who_holds_the_archive_and_does_not_do_it_is_named(archive: Path) -> None:
    code = "from coffer.server.keyops import rekey_order as r; from coffer.server.cli import main; "
    code += f"r._STALLED_SECONDS = 0.3; main({[*COMMAND]})"
    with engine(write=True):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 6
    assert f"pid {os.getpid()}" in done.stderr
    with engine() as opened:
        assert len(rekey.under_way(opened.keyring)) == 1
        assert len(opened.index.key_ids_of(STUDY)) == 1
    run(*COMMAND)
    assert len(events(StudyRekeyed)) == 1


def test_a_shred_by_another_process_in_the_middle_is_stronger(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, officers = Rekeyer._sealed, []

    def shredding(self: Rekeyer, *args: object) -> object:
        if not officers:
            changes = self._keyring.changes()
            officers.append(subprocess.Popen([COFFER, "shred", STUDY, "--reason", "r", "--yes"]))
            deadline = time.monotonic() + 30
            while self._keyring.changes() == changes:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Rekeyer, "_sealed", shredding)
    run(*COMMAND)
    assert officers[0].wait(30) == 0
    assert found() == list(UIDS[1:])
    run("index", "rebuild")
    assert found() == list(UIDS[1:])
    assert events(StudyRekeyed) == []


def test_what_is_sent_during_the_change_over_waits_and_goes_under_the_new_key(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, senders, outcomes = Rekeyer._change_over, [], []
    more = next(slices(STUDY, "P-4711"))
    more.SOPInstanceUID = STUDY + ".1.99"
    with engine(write=True) as opened:

        def send_one() -> None:
            request = StoreRequest(
                str(more.SOPClassUID), str(more.SOPInstanceUID), EXPLICIT_LE, Principal.peer("TESTER")
            )
            reception = services(opened).ingest.begin(request)
            reception.write(encoded(more))
            outcomes.append(status(reception.finish()))

        def changing_over(self: Rekeyer, *args: object) -> None:
            senders.append(threading.Thread(target=send_one))
            senders[0].start()
            senders[0].join(0.5)
            assert outcomes == []  # it waits
            real(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(Rekeyer, "_change_over", changing_over)
        order(opened, one_study(opened, STUDY), "r", Principal.here(None))
        Rekeyer(opened, pause=services(opened).committer.paused).run()
        senders[0].join(30)
        assert outcomes == [0]
    assert len(got(STUDY)) == 4
    assert len(key_ids(STUDY)) == 1


def send(port: int, datasets: list[Dataset]) -> list[int]:
    """C-STORE; the statuses."""
    from pynetdicom import AE

    ae = AE("TESTER")
    for uid in {str(ds.SOPClassUID) for ds in datasets}:
        ae.add_requested_context(uid, EXPLICIT_LE)
    association = ae.associate("127.0.0.1", port)
    assert association.is_established
    try:
        return [int(association.send_c_store(ds).Status) for ds in datasets]
    finally:
        association.release()


def test_a_server_goes_on_with_what_was_stopped_while_it_stores(archive: Path) -> None:
    whole, (old,) = got(STUDY), key_ids(STUDY)
    port = int(tomllib.loads(Path("coffer.toml").read_text(encoding="utf-8"))["dimse"]["port"])
    datasets = [copy.deepcopy(ds) for ds in list(slices(STUDY, "P-4711")) * 20]
    for number, ds in enumerate(datasets):
        ds.SOPInstanceUID = f"{STUDY}.1.{100 + number}"
        ds.file_meta = Dataset()
        ds.file_meta.TransferSyntaxUID = EXPLICIT_LE
    stop_in(rekey.Phase.SEALING)
    statuses: list[int] = []
    with serving():
        sender = threading.Thread(target=lambda: statuses.extend(send(port, datasets)))
        sender.start()
        shown = told(*COMMAND)
        sender.join(240)
        assert len(json.loads(run("find", "--json").stdout)) == 3
        assert {name: data for name, data in got(STUDY).items() if name in whole} == whole
    assert statuses == [0] * len(datasets)
    assert key_ids(STUDY) == {bytes.fromhex(str(shown["new_keys"][0]))}  # type: ignore[index]
    assert len(got(STUDY)) == 3 + len(datasets)
    with engine() as opened, pytest.raises(SupersededError):
        opened.keyring.study(old)
    rows = index_rows()
    run("index", "rebuild")
    assert index_rows() == rows
