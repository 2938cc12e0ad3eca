"""Fixtures of the network door: the real listener over services that keep everything in memory."""

import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from coffer.keys.errors import UnavailableError
from coffer.server.access.decision import policy_of
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Dimse, Logging, Peer, Storage
from coffer.server.dimse.acceptor import Acceptor
from coffer.server.dimse.associations import Associations
from coffer.server.dimse.listener import Listener
from coffer.server.dimse.places import AssociationPlace
from coffer.server.dimse.protocol.connection import Connection
from coffer.server.host.rate import Rates
from coffer.server.observe import logs
from coffer.server.observe.metrics import Metrics
from coffer.server.services.api import Instance, Matches, Planned, StoreOutcome, StoreRequest
from tests.gates import open_gate
from tests.server.filled import free_port


class Kept:
    """A reception that keeps what it gets; a data set that begins with `full` meets a full disk."""

    def __init__(self, request: StoreRequest, store: dict[str, bytes]) -> None:
        self._request, self._store, self._data = request, store, bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._data += data
        if self._data.startswith(b"full"):
            raise UnavailableError("the archive's volume is full up to its reserve")

    def finish(self) -> StoreOutcome:
        self._store[self._request.sop_instance] = bytes(self._data)
        return StoreOutcome()

    def abort(self) -> None:
        self._data.clear()


class Memory:
    """The archive's services over a dictionary, and what a query or a retrieval finds."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.matches: Callable[[bytes], Iterator[bytes | None]] = lambda identifier: iter([identifier] * 3)
        self.instances: Sequence[Instance] = []
        self.remark = ""
        self.metrics = Metrics()
        self.ingest = self.finder = self.retriever = self

    def begin(self, request: StoreRequest) -> Kept:
        return Kept(request, self.stored)

    def find(self, identifier: bytes, *, implicit: bool, model: str, caller: Principal) -> Matches:
        return Matches(self.matches(identifier))

    def plan(
        self,
        identifier: bytes,
        *,
        implicit: bool,
        model: str,
        caller: Principal,
        destination: str,
        waiting: Callable[[], None],
    ) -> Planned[Instance]:
        return Planned(self.instances, self.remark)

    def failures(self, service: str, status: str) -> float:
        """How many failures of a service with a status were counted."""
        labels = {"service": service, "status": status}
        return self.metrics.registry.get_sample_value("coffer_failures_total", labels) or 0

    def counted(self, name: str, **labels: str) -> float:
        """The value of a counter."""
        return self.metrics.registry.get_sample_value(f"{name}_total", labels) or 0

    def sent(self, service: str) -> tuple[float, float]:
        """How many objects and bytes of them a service was counted to have sent."""
        names = "coffer_objects_sent_total", "coffer_sent_data_bytes_total"
        objects, size = (self.metrics.registry.get_sample_value(name, {"service": service}) or 0 for name in names)
        return objects, size


class InThisProcess:
    """Serves what the listener accepts, with threads."""

    def __init__(self, config: Config, memory: Memory) -> None:
        self._config, self._memory = config, memory
        self._associations = Associations()
        self._rates = Rates(config.dimse.requests_per_second)
        self.stop = self._associations.stop

    def dispatch(self, connection: socket.socket, place: AssociationPlace, ended: Callable[[], None]) -> None:
        settings = self._config.dimse
        pdus = Connection(connection, max_pdu=settings.max_pdu, gap_seconds=settings.gap_seconds)
        gate = open_gate(self._config, place.host)
        policy = policy_of(self._config)
        acceptor = Acceptor(
            pdus, place.host, self._config, policy, self._memory, self._memory.metrics, gate, rates=self._rates
        )
        self._associations.begin(acceptor, ended)

    def end(self, place: AssociationPlace) -> None:
        raise AssertionError("nobody said that an association is idle")


@pytest.fixture
def memory() -> Memory:
    """What the listener serves."""
    return Memory()


@pytest.fixture
def listen(memory: Memory, tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    """Start a listener; keywords are settings of [dimse]. Addresses that begin with `strangers` are unknown."""
    running: list[tuple[Listener, InThisProcess]] = []

    def start(
        *, destination: int = 1, storage: Storage | None = None, strangers: str = "none", **settings: object
    ) -> Listener:
        defaults = {"handshake_seconds": 0.5, "gap_seconds": 1.0, "idle_seconds": 5.0, "max_associations": 3}
        dimse = Dimse(port=free_port(), **{**defaults, **settings})  # type: ignore[arg-type]
        peers = (Peer(ae_title="MOVEDST", host="127.0.0.1", port=destination),)
        config = Config(archive=tmp_path, dimse=dimse, peers=peers, storage=storage or Storage())
        here = InThisProcess(config, memory)
        made = Listener(config, here, memory.metrics, lambda by: by.host.startswith(strangers))
        made.start()
        running.append((made, here))
        return made

    yield start
    for made, here in running:
        made.stop()
        here.stop(1.0)


@pytest.fixture
def listener(listen: Callable[..., Listener]) -> Listener:
    """A running listener."""
    return listen()


@pytest.fixture(autouse=True)
def _logs() -> None:
    """Warnings are written, whatever another test of this process has configured."""
    logs.configure(Logging(), level="warning")
