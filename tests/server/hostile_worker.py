"""A worker process that was taken over, on a real line of the committing process, beside an honest one.

After the tests of a file the archive is verified and opened again for writing.
"""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coffer.archive.body.sealed_body import own_memory
from coffer.archive.format.entry import SealedFile
from coffer.archive.verify.verify import Verifier
from coffer.index.instance.identity import PartId
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import UnavailableError
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Dimse, Http, Keys
from coffer.server.engine.commit import Committed, Sealed
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.identity.admission import Connected
from coffer.server.identity.claim import AssociationClaim
from coffer.server.main.demo import encoded, sample_study
from coffer.server.services.api import StoreRequest
from coffer.server.services.store import Ingest
from coffer.server.workers import messages as m
from coffer.server.workers.coordinator import Coordinator
from coffer.server.workers.proxy import Line
from coffer.server.workers.transport import LineClosed, Wire
from tests.gates import admission_of
from tests.server.filled import status
from tests.services import services

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
HONEST, EVIL = "1.2.3", "1.2.9"
SAMPLE = sample_study()[0]


class Site:
    """An archive with its committing thread, and what has happened to lines."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(
            archive=folder / "archive",
            dimse=Dimse(query_cpu_seconds=5.0),
            http=Http(enabled=False),
            keys=Keys(key_file=folder / "key"),
        )
        create_archive(self.config)
        self.engine = open_writer(self.config)
        self.desk = Coordinator(services(self.engine), admission_of(self.config))
        self.desk.start()
        self.honest = Worker(self)
        assert self.honest.store(HONEST, 1) == 0
        self.stored = 1

    def check(self) -> None:
        """Somebody else's object is stored as ever, and nothing but that came into the archive."""
        self.stored += 1
        assert self.honest.store(HONEST, self.stored) == 0
        assert self.engine.stats().objects == self.stored


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.desk.stop()
    made.engine.close()
    with open_writer(made.config) as engine:
        assert engine.stats().objects == made.stored
        assert not list(Verifier(engine.folder).findings())


class Worker:
    """The other end of a line: honest as `server.workers.proxy`, or with `hook` in the place of its commit."""

    def __init__(self, site: Site, calling: str = "TEST") -> None:
        """`calling` is the AE title that it says is calling, empty: it says nothing."""
        self.over = threading.Event()
        self.said = ""
        self.site = site
        self.wire = Wire(site.desk.add(self.over.set, Connected("192.0.2.7")))
        self.wire.socket.settimeout(20)
        self.line = Line(self.wire)
        self.hook: Callable[[Sealed, memoryview], None] | None = None
        if calling:
            assert self.line.ask(m.Identify(AssociationClaim(calling, "COFFER")), m.Identified).found

    def study_key(self, part: PartId) -> StudyKey:
        reply, dek = self.line.ask_for_key(m.StudyKeyFor(part))
        return StudyKey(reply.key_id, dek)

    def require_key(self, key_id: bytes) -> None:
        """It seals under whatever it was given."""

    def memory(self, length: int) -> memoryview:
        return self.line.memory(length) if self.hook is None else own_memory(length)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        if self.hook is None:
            return self.line.commit(sealed, body)
        assert isinstance(body, memoryview)
        self.hook(sealed, body)
        raise UnavailableError("not stored")

    def store(self, study: str, number: int) -> int:
        ds = copy.deepcopy(SAMPLE)  # threads store too
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
        ds.SOPInstanceUID = f"{study}.1.{number}"
        request = StoreRequest(CT, ds.SOPInstanceUID, EXPLICIT_LE, Principal.peer("TEST"))
        reception = Ingest(self.site.engine.intake, self, self.site.engine.policy, self.site.engine.index.rules).begin(
            request
        )
        reception.write(encoded(ds))
        outcome = reception.finish()
        self.said = str(outcome.error)
        return status(outcome)

    def instead(self, study: str, hook: Callable[[Sealed, memoryview], None]) -> None:
        """Receive an object and do something else when it should be committed."""
        self.hook = hook
        assert self.store(study, 1) != 0

    def send(self, *requests: m.Request, fds: tuple[int, ...] = ()) -> None:
        for request in requests:
            self.wire.send(m.encode(request), fds)

    def is_ended(self) -> bool:
        """Whether the line is closed by the other end, whatever it answered before."""
        with contextlib.suppress(LineClosed):
            while True:
                self.wire.receive()
        return self.over.wait(20)


@pytest.fixture
def evil(site: Site) -> Iterator[Worker]:
    worker = Worker(site)
    yield worker
    worker.line.close()
