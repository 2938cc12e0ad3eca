"""A key in a worker is used while its lease lasts, and its lease lasts while the committing process says so."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coffer.archive.format.entry import SealedFile
from coffer.index.instance.identity import PartId
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import ShreddedError, UnavailableError
from coffer.keys.keyring.shred import schedule
from coffer.server.access.principal import Principal
from coffer.server.dimse.protocol.status import OUT_OF_RESOURCES, status_of
from coffer.server.engine.commit import Committed, Sealed
from coffer.server.identity.admission import Connected
from coffer.server.identity.claim import AssociationClaim
from coffer.server.main.demo import encoded, sample_study
from coffer.server.services.api import StoreRequest
from coffer.server.workers import messages as m
from coffer.server.workers.coordinator import LEASE_SECONDS
from coffer.server.workers.held_key import HeldKey
from coffer.server.workers.proxy import Line, RemoteServices
from coffer.server.workers.transport import Wire
from tests.server import hostile_worker
from tests.server.hostile_worker import CT, EXPLICIT_LE, Site

site = hostile_worker.site
_studies = iter(range(1000))


class Clock:
    """Stands still unless it is told otherwise; `step` seconds pass with each reading."""

    def __init__(self) -> None:
        self.now, self.step = 1000.0, 0.0
        self.at_reading: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        self.now += self.step
        self.at_reading()
        return self.now


class CountingLine(Line):
    """A line that keeps what was asked, and counts what was sent to be committed."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.asked: list[m.Request] = []
        self.commits = 0

    def ask(self, request: m.Request, kind: type[Any]) -> Any:
        self.asked.append(request)
        return super().ask(request, kind)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        self.commits += 1
        return super().commit(sealed, body)


@pytest.fixture
def line(site: Site) -> Iterator[CountingLine]:
    wire = Wire(site.desk.add(lambda: None, Connected("192.0.2.8")))
    wire.socket.settimeout(20)
    made = CountingLine(wire)
    assert made.ask(m.Identify(AssociationClaim("TEST", "COFFER")), m.Identified).found
    del made.asked[:]
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def held(site: Site, line: CountingLine, clock: Clock) -> HeldKey:
    return HeldKey(line, site.engine.keyring.gone_since, clock)


@pytest.fixture
def wanted() -> m.StudyKeyFor:
    return m.StudyKeyFor(PartId(f"1.2.77.{next(_studies)}"))


def shred(site: Site, key: StudyKey) -> None:
    schedule(site.engine.keyring, {key.key_id: bytes(16)}, now_ms=1, until_ms=2)


def test_a_key_is_not_asked_for_again_while_its_lease_lasts(
    held: HeldKey, line: CountingLine, clock: Clock, wanted: m.StudyKeyFor
) -> None:
    key = held.key(wanted)
    clock.now += LEASE_SECONDS - 0.01
    assert held.key(wanted) is key
    assert line.asked == [wanted]
    clock.now += 0.01
    again = held.key(wanted)
    assert again is not key
    assert again.key_id == key.key_id
    assert line.asked == [wanted] * 2


def test_a_key_in_use_is_renewed_when_half_of_its_lease_is_over(
    held: HeldKey, line: CountingLine, clock: Clock, wanted: m.StudyKeyFor
) -> None:
    key = held.key(wanted)
    for _ in range(100):
        clock.now += LEASE_SECONDS / 4
        held.require(key.key_id)
    assert held.key(wanted) is key
    assert line.asked == [wanted] + [m.Renew(key.key_id)] * 50


def test_a_process_that_was_stopped_asks_before_it_goes_on(
    site: Site, held: HeldKey, line: CountingLine, clock: Clock, wanted: m.StudyKeyFor
) -> None:
    key = held.key(wanted)
    clock.now += 3600
    held.require(key.key_id)
    assert line.asked[1:] == [m.Renew(key.key_id)]
    assert held.key(wanted) is key
    clock.now += 3600
    shred(site, key)
    for _ in range(2):
        with pytest.raises(ShreddedError):
            held.require(key.key_id)
    assert held.key(wanted).key_id != key.key_id


def test_a_key_that_was_taken_away_is_not_used_for_the_rest_of_its_lease(
    site: Site, held: HeldKey, line: CountingLine, wanted: m.StudyKeyFor
) -> None:
    other = site.engine.keyring.new_study()
    key = held.key(wanted)
    shred(site, other)
    held.require(key.key_id)
    assert held.key(wanted) is key
    assert line.asked == [wanted]  # another key's end is no reason
    shred(site, key)
    with pytest.raises(ShreddedError):
        held.require(key.key_id)
    assert held.key(wanted).key_id != key.key_id


def test_without_the_committing_process_a_lease_ends(
    held: HeldKey, line: CountingLine, clock: Clock, wanted: m.StudyKeyFor
) -> None:
    key = held.key(wanted)
    line.close()
    held.require(key.key_id)
    clock.now += LEASE_SECONDS / 2
    with pytest.raises(UnavailableError):
        held.require(key.key_id)
    assert held.key(wanted) is key
    clock.now += LEASE_SECONDS / 2
    for use in (lambda: held.require(key.key_id), lambda: held.key(wanted)):
        with pytest.raises(UnavailableError):
            use()


@pytest.mark.parametrize("why", ["its lease is over", "it was taken away"])
def test_an_idle_association_keeps_no_key(
    site: Site, held: HeldKey, line: CountingLine, clock: Clock, wanted: m.StudyKeyFor, why: str
) -> None:
    key = held.key(wanted)
    held.drop_if_over()
    assert held.key(wanted) is key
    if why == "its lease is over":
        clock.now += LEASE_SECONDS
    else:
        shred(site, key)
    held.drop_if_over()
    assert held._held is None
    assert held.key(wanted) is not key


@pytest.fixture
def services(site: Site, line: CountingLine, clock: Clock) -> RemoteServices:
    engine = site.engine
    feed = engine.keyring.gone_since
    return RemoteServices(
        line, engine.intake, engine.policy, engine.index.rules, engine.folder.archive_id, engine.reader, feed, clock
    )


def store(services: RemoteServices, study: str) -> int:
    """Store an object that takes several uses of its key to seal; returns the status of C-STORE."""
    ds = sample_study()[0]
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, f"{study}.1", f"{study}.1.1"
    ds.EncapsulatedDocument = os.urandom(6 << 20)
    reception = services.ingest.begin(StoreRequest(CT, ds.SOPInstanceUID, EXPLICIT_LE, Principal.peer("TEST")))
    reception.write(encoded(ds))
    error = reception.finish().error
    return 0 if error is None else status_of(error)[0]


def test_an_object_that_takes_longer_than_a_lease_is_stored(
    site: Site, services: RemoteServices, line: CountingLine, clock: Clock
) -> None:
    clock.step = LEASE_SECONDS - 0.5
    assert store(services, f"1.2.78.{next(_studies)}") == 0
    site.stored += 1
    assert sum(isinstance(each, m.Renew) for each in line.asked) > 4
    assert site.engine.stats().objects == site.stored


def test_only_a_further_version_is_sent_twice_and_neither_asks_for_the_key_again(
    site: Site, services: RemoteServices, line: CountingLine
) -> None:
    study = f"1.2.77.{next(_studies)}"
    sent = []
    for _ in range(3):
        before = line.commits
        assert store(services, study) == 0
        sent.append(line.commits - before)
    site.stored += 3
    assert sent == [1, 2, 2]
    assert [type(each) for each in line.asked] == [m.StudyKeyFor]
    versions = [each.located.version for each in site.engine.index.versions(f"{study}.1.1")]
    assert [each.previous for each in versions] == [b"", *(each.content_id for each in versions[:-1])]


@pytest.mark.parametrize("why", ["shredded", "contact lost"])
def test_an_object_half_sealed_when_its_key_goes_is_refused_and_can_be_sent_again(
    site: Site, services: RemoteServices, line: CountingLine, clock: Clock, why: str
) -> None:
    study, readings = f"1.2.79.{next(_studies)}", iter(range(1000))

    def go() -> None:
        if next(readings) == 3:
            part = PartId(study, str(sample_study()[0].PatientID))
            claim = site.engine.keyring.claims.find(part.text)
            assert claim is not None
            schedule(site.engine.keyring, {claim.key_id: bytes(16)}, now_ms=1, until_ms=2)

    def lose() -> None:
        if next(readings) == 3:
            line._wire.close()
            clock.now += LEASE_SECONDS

    clock.at_reading = go if why == "shredded" else lose
    assert store(services, study) == OUT_OF_RESOURCES
    assert site.engine.stats().objects == site.stored
    assert next(readings) < 10
    if why == "shredded":
        assert store(services, study) == 0
        site.stored += 1
        assert site.engine.stats().objects == site.stored
