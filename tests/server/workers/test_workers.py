"""Receiving processes: one that dies costs its own associations only, and none outlives the server."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from coffer.archive.events.epochs import EpochRotated
from coffer.archive.events.officer import Officer
from coffer.archive.format.record import Kind
from coffer.archive.verify.verify import Verifier
from coffer.index.dicom.identifier import encode_identifier
from coffer.index.instance.identity import PartId
from coffer.index.tables.candidates import StudyTable
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import ConfigError, ServiceError, UnavailableError
from coffer.keys.keyring.shred import schedule
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Dimse, Http, Keys
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.connection import ConnectionClosed
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.engine.commit import Committer
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.erasure.shred import Authorization, Shredding
from coffer.server.host import watched
from coffer.server.keyops.epochs import EpochAdmin
from coffer.server.main.demo import encoded, leave_answers_to_caller, sample_study
from coffer.server.main.service import Server
from coffer.server.retention.selection import by_study
from coffer.server.workers import coordinator, supervisor
from coffer.server.workers.coordinator import Coordinator
from coffer.server.workers.messages import Renewed
from coffer.server.workers.transport import LineClosed, SharedMemory, Wire
from tests.peers.dicom_client import get
from tests.server.dimse.raw_peer import RawRequestor
from tests.server.filled import free_port

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    config = Config(
        archive=tmp_path / "archive",
        dimse=Dimse(port=free_port(), processes=2),
        http=Http(enabled=False),
        keys=Keys(key_file=tmp_path / "key"),
    )
    create_archive(config)
    yield config
    with open_reading(config) as engine:
        assert not list(Verifier(engine.folder).findings())


def connect(config: Config) -> Requestor:
    return Requestor("127.0.0.1", config.dimse.port, "TESTER", "COFFER", [Offer(1, CT, (EXPLICIT_LE,))], 10.0)


def store(peer: Requestor, number: int) -> int:
    ds = sample_study()[number]
    return peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)])


def workers() -> set[int]:
    """The processes that this one has started as workers."""
    found = set()
    for pid in (each.name for each in Path("/proc").iterdir() if each.name.isdigit()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if b"coffer.server.workers" in words and parent == os.getpid():
            found.add(int(pid))
    return found


def wait_for(what: str, done: object, seconds: float = 15.0) -> None:
    assert callable(done)
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_process_that_dies_costs_its_own_associations_and_comes_back(config: Config) -> None:
    with Server(config) as server:
        wait_for("two workers", lambda: len(workers()) == 2)
        first, second = connect(config), connect(config)
        assert store(first, 0) == 0
        assert store(second, 1) == 0
        victim = min(workers())
        os.kill(victim, signal.SIGKILL)
        outcomes = []
        for peer in (first, second):
            try:
                outcomes.append(store(peer, 2))
            except (ConnectionClosed, UnavailableError):
                outcomes.append(None)
        assert sorted(map(str, outcomes)) == ["0", "None"]
        wait_for("a new worker", lambda: len(workers() - {victim}) == 2)
        for _ in range(4):
            with connect(config) as peer:
                assert store(peer, 2) == 0
        assert server.services.archive.stats().objects == 3
    assert not workers()


def test_a_process_that_hangs_is_ended_and_started_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_PULSE_SECONDS", 2.0)
    with Server(config) as server:
        victim = min(workers())
        os.kill(victim, signal.SIGSTOP)
        wait_for("the worker's end", lambda: victim not in workers(), 60)
        wait_for("a new worker", lambda: len(workers()) == 2 and not server.concerns(), 60)
        assert server.reasons() == []
        assert 'coffer_restarts_total{what="a receiving process"} 1.0' in server._metrics.render().decode()
        for _ in range(4):
            with connect(config) as peer:
                assert store(peer, 2) == 0


def test_without_a_receiving_process_it_is_not_ready(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(config) as server:
        monkeypatch.setattr(supervisor, "_RESTART_SECONDS", 3600.0)
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
        wait_for("no worker", lambda: server.reasons() == ["no worker process is running: they are started again"])
        with socket.create_connection(("127.0.0.1", config.dimse.port), 10.0) as sock:
            sock.sendall(negotiation.request("TESTER", "COFFER", [Offer(1, CT, (EXPLICIT_LE,))], 16384))
            assert sock.recv(10, socket.MSG_WAITALL) == negotiation.reject(negotiation.CONGESTED)


def test_a_part_that_does_not_come_back_ends_the_server(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_PATIENCE_SECONDS", 0.5)
    with Server(config) as server:
        assert server._listener is not None
        server._listener._listen = lambda: (_ for _ in ()).throw(ConfigError("the port is another's"))  # type: ignore[method-assign]
        assert server._listener._socket is not None
        server._listener._socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ServiceError, match="accepting associations died"):
            server.wait()
        (told,) = server.reasons()
        assert "accepting associations died" in told
    assert ServiceError.exit_code == 15


def test_no_process_is_left_when_the_port_is_taken(config: Config) -> None:
    with (
        socket.create_server(("127.0.0.1", config.dimse.port)),
        pytest.raises(ConfigError, match="cannot listen"),
        Server(config),
    ):
        pass
    assert not workers()


def test_many_associations_store_the_same_object_once(config: Config) -> None:
    statuses: list[int] = []

    def send() -> None:
        with connect(config) as peer:
            statuses.extend(store(peer, number) for number in (0, 1, 2, 0))

    with Server(config) as server:
        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = server.services.archive.stats()
    assert statuses == [0] * 32
    assert (stats.studies, stats.objects, stats.records) == (1, 3, 4)


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_messages_come_whole_and_in_order(messages: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Wire(ours), Wire(theirs)
    for message in messages:
        sender.send(message)
    sender.close()
    assert [receiver.receive() for _ in messages] == messages
    with pytest.raises(LineClosed):
        receiver.receive()
    receiver.close()


def test_bodies_pass_through_memory_that_grows() -> None:
    memory, fds = SharedMemory(), []
    for body in (b"a" * 1000, b"b" * 1_000_000, b"c" * 3_000_000):
        memory.room(len(body))[:] = body
        fds.append(memory.take_unsent())
    first, none, second = fds
    assert first is not None
    assert none is None
    assert second is not None
    assert os.pread(second, 3_000_001, 0).rstrip(b"\0") == b"c" * 3_000_000
    for fd in (first, second):
        os.close(fd)
    memory.close()


def test_memory_that_was_never_sent_is_given_back() -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    memory = SharedMemory()
    held = memory.room(1000)  # a store that failed before its commit
    memory.room(3_000_000)
    memory.close()
    held.release()
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize(("keyword", "status"), [("StudyDescription", 0xFF00), ("DetectorTemperature", 0xFF01)])
def test_a_query_says_when_it_does_not_know_a_key(config: Config, keyword: str, status: int) -> None:
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", ""
    setattr(query, keyword, None)
    with Server(config):
        with connect(config) as peer:
            assert store(peer, 0) == 0
        ae = AE()
        ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        association = ae.associate("127.0.0.1", config.dimse.port, ae_title="COFFER")
        leave_answers_to_caller(association)
        answers = [s.Status for s, _ in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)]
        association.release()
    assert answers == [status, 0x0000]


def test_a_search_that_finds_nothing_can_be_cancelled(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    query = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: (), 0x00100010: ("NOBODY^*",)}, (), implicit=True)
    find = str(StudyRootQueryRetrieveInformationModelFind)
    with Server(config):
        with connect(config) as sender:
            assert store(sender, 0) == 0
        # As an archive of so many studies that nobody would wait for its end.
        monkeypatch.setattr(StudyTable, "candidates", lambda *_: itertools.repeat(1, 2_000_000))
        with RawRequestor(config.dimse.port, [Offer(1, find, ("1.2.840.10008.1.2",))]) as peer:
            for _ in range(6):  # one more than there are threads for queries
                message_id = peer.request(peer.context(find), dimse.C_FIND, query)
                peer.cancel(peer.context(find), message_id)
                final = peer.final()
                assert (final.status, final.data) == (0xFE00, None)
        monkeypatch.undo()
        with connect(config) as sender:
            assert store(sender, 1) == 0


def test_keys_are_rotated_while_objects_come_in(config: Config) -> None:
    statuses: list[int] = []
    stop = threading.Event()

    def send() -> None:
        number = 0
        with connect(config) as peer:
            while not stop.is_set() or number < 5:
                ds = sample_study()[0]
                ds.StudyInstanceUID = f"1.2.3.{number}"
                ds.SOPInstanceUID = f"1.2.3.{number}.1"
                statuses.append(peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)]))
                number += 1

    with Server(config) as server:
        sender = threading.Thread(target=send)
        sender.start()
        environment = {**os.environ, "COFFER_ARCHIVE": str(config.archive)}
        settings = config.archive.parent / "coffer.toml"
        settings.write_text(f'archive = "{config.archive}"\n[keys]\nkey_file = "{config.keys.key_file}"\n')
        for epoch in (2, 3):
            command = [
                str(Path(sys.executable).with_name("coffer")),
                "--config",
                str(settings),
                "keys",
                "rotate",
                "--json",
            ]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["epoch"] == epoch
        stop.set()
        sender.join()
        assert set(statuses) == {0}
        assert server.services.archive.stats().objects == len(statuses)
        assert server.services.archive.stats().key_epoch == 3
    with open_writer(config) as engine:
        assert engine.stats().objects == len(statuses)
        events = [each.event for each in engine.events(frozenset({Kind.KEYRING_ROTATED}))]
        assert [event.epoch for event in events if isinstance(event, EpochRotated)] == [2, 3]


def test_a_key_that_is_taken_away_opens_nothing_in_any_worker_from_then_on(config: Config) -> None:
    came: list[int] = []
    study = sample_study()[0].StudyInstanceUID

    def taken() -> None:
        came.append(len(came))
        if len(came) == 2:
            Shredding(server.services.archive).shred(
                by_study(server.services.archive, study), Authorization("r", (Officer("Meyer", "a"),))
            )

    with Server(config) as server:
        with connect(config) as peer:
            for number in range(12):
                ds = sample_study()[0]
                ds.SOPInstanceUID += f".{number}"
                assert peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)]) == 0
        status = get(config.dimse.port, [(CT, EXPLICIT_LE)], taken=taken, StudyInstanceUID=study)
    assert len(came) <= 4  # two more had been opened before
    assert status.NumberOfFailedSuboperations == 12 - len(came)


def large(number: int) -> Dataset:
    """An object of the sample's study that takes several uses of its key to seal."""
    ds = sample_study()[0]
    ds.SOPInstanceUID += f".{number}"
    ds.EncapsulatedDocument = os.urandom(6 << 20)
    return ds


def test_a_key_is_used_as_long_as_its_lease_is_renewed_and_no_longer(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "LEASE_SECONDS", 0.0)  # each use has to ask
    asked: list[bytes] = []
    renewed, study_key = Coordinator._renewed, Committer.study_key

    def counted(self: Coordinator, key_id: bytes) -> Renewed:
        asked.append(key_id)
        return renewed(self, key_id)

    def taken_away(self: Committer, part: PartId) -> StudyKey:
        key = study_key(self, part)
        schedule(self._keyring, {key.key_id: bytes(16)}, now_ms=1, until_ms=2)
        return key

    monkeypatch.setattr(Coordinator, "_renewed", counted)
    with Server(config) as server, connect(config) as peer:
        ds = large(1)
        assert peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)]) == 0
        assert len(asked) > 4
        assert len(set(asked)) == 1
        with monkeypatch.context() as patch:
            patch.setattr(Committer, "study_key", taken_away)
            ds = large(2)
            assert peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)]) == 0xA700
        records = len(list(server.services.archive.reader.records()))
        assert peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)]) == 0
        assert len(list(server.services.archive.reader.records())) == records + 2  # another key, and its first object


def test_a_server_rotates_an_epoch_that_is_old_enough(config: Config) -> None:
    with open_writer(config) as engine:
        keyring = engine.keyring
        later = [keyring.epoch_row(1).created_ms + 29 * 86_400_000]
        never, monthly = (
            EpochAdmin(engine.folder, keyring, Keys(rotate_days=days), Principal.here(None), "a test")
            for days in (0, 30)
        )
        assert not monthly.rotate_if_old(now_ms=lambda: later[0])
        later[0] += 2 * 86_400_000
        assert not never.rotate_if_old(now_ms=lambda: later[0])
        assert monthly.rotate_if_old(now_ms=lambda: later[0])
        assert keyring.epoch == 2
        assert engine.stats().key_epoch_age < 60
