"""Sequences of stores, corrections, holds and shreds, compared with a model that only keeps lists.

The archive is a real one: keyring, log, index. The model knows no keys and no rows: it has every object that was
stored, and asks each of them. A longer campaign: `HOLDS_EXAMPLES=500 pytest
tests/server/retention/test_holds_model.py`.
"""

import datetime as dt
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydicom.dataset import Dataset

import coffer.server.services.store
from coffer.keys.clock import clock_ms
from coffer.keys.errors import AccessDeniedError, CofferError, InputError, NotFoundError, ShreddedError
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Http, Keys, Retention, Storage
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.erasure.shred import Authorization, Shredding
from coffer.server.main.demo import encoded
from coffer.server.retention.holds import Hold, HoldAdmin
from coffer.server.retention.selection import PartToShred, SeveralPatientsError, by_instance, by_patient, by_study
from coffer.server.services.api import StoreRequest
from tests.services import services

SC, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1"
WHO = Principal.person("Meyer", "a")
OFFICER = WHO.officer
YEARS = 10
STUDIES = ("", "1.2.3", "1.2.4")
INSTANCES = ("1.9.1", "1.9.2", "1.9.3")
PATIENTS = ("", "A", "B", "a")
ISSUERS = ("", "X", "Y")
OLD, NEW = "19900102", "20240131"
DATES = (*(OLD,) * 9, NEW, "2024.01.31", "", "19901301", "99991231", "17530101")  # one of these keeps a study whole
CLOCKS = (None, None, 0, 946_684_800_000)  # now, 1970, 2000
WAYS = ("study", "part", "part", "everybody", "patient", "instance")
SENT = st.tuples(
    st.sampled_from(("1.2.3", "1.2.3", "1.2.4", "")),
    st.sampled_from(INSTANCES),
    st.sampled_from(PATIENTS),
    st.sampled_from(ISSUERS),
    st.sampled_from(DATES),
    st.sampled_from(CLOCKS),
)


@dataclass(frozen=True)
class Stored:
    """One object as it was sent, and when it came."""

    number: int
    study: str
    instance: str
    patient: str
    issuer: str
    date: str
    received_ms: int
    data: bytes

    @property
    def part(self) -> tuple[str, str, str, str]:
        return self.study, self.patient, self.issuer if self.patient else "", "" if self.study else self.instance

    def counts_from(self) -> dt.date:
        """The rule as docs/keys.md has it."""
        receipt = dt.datetime.fromtimestamp(self.received_ms / 1000, dt.UTC).date()
        try:
            date = dt.datetime.strptime(self.date.replace(".", ""), "%Y%m%d").replace(tzinfo=dt.UTC).date()
        except ValueError:
            return max(receipt, dt.date(2025, 1, 1))
        return date if receipt.year < 2025 or date.year <= receipt.year + 5 else receipt


@dataclass(frozen=True)
class Held:
    """One hold."""

    study: str = ""
    patient: str = ""
    issuer: str = ""
    instance: str = ""
    is_over: bool = False

    def is_about(self, one: Stored) -> bool:
        if self.is_over:
            return False
        if self.patient:
            is_issuer = "" in (self.issuer, one.issuer) or self.issuer == one.issuer
            return one.patient == self.patient and is_issuer
        if self.study:
            return one.study == self.study
        return not one.study and one.instance == self.instance


def serves(objects: list[Stored]) -> list[Stored]:
    """The newest of each chain."""
    return list({(one.study, one.instance): one for one in sorted(objects, key=lambda one: one.number)}.values())


class Model(RuleBasedStateMachine):
    """The archive beside a list of what is in it."""

    @initialize(sent=st.lists(SENT, min_size=2, max_size=5))
    def begin(self, sent: list[tuple[str, str, str, str, str, int | None]]) -> None:
        self.folder = Path(tempfile.mkdtemp())
        config = Config(
            archive=self.folder / "archive",
            http=Http(enabled=False),
            keys=Keys(key_file=self.folder / "key"),
            retention=Retention(years=YEARS),
            storage=Storage(reserve_bytes=0),
        )
        create_archive(config)
        self.engine = open_writer(config)
        self.objects: list[Stored] = []
        self.gone: list[tuple[Stored, bytes]] = []
        self.holds: dict[str, Held] = {}
        self.count = 0
        for one in sent:
            self.store(one)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
            shutil.rmtree(self.folder)

    @rule(sent=SENT)
    def store(self, sent: tuple[str, str, str, str, str, int | None]) -> None:
        """A peer sends an object; where its UID is known, that is a correction."""
        study, instance, patient, issuer, date, clock = sent
        self.count += 1
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = SC, instance, "1.5"
        ds.PatientID, ds.IssuerOfPatientID, ds.StudyDate = f" {patient} ", issuer, date
        ds.ImageComments = str(self.count)
        if study:
            ds.StudyInstanceUID = study
        else:
            del ds.SeriesInstanceUID
        received = clock_ms() if clock is None else clock
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(coffer.server.services.store, "clock_ms", lambda: received)
            reception = services(self.engine).ingest.begin(
                StoreRequest(SC, instance, EXPLICIT_LE, Principal.peer("PEER"))
            )
            data = encoded(ds)
            reception.write(data)
            assert reception.finish().error is None
        self.objects.append(Stored(self.count, study, instance, patient, issuer, date, received, data))

    @rule(at=st.integers(0, 9), on=st.sampled_from(["study", "patient", "patient", "instance"]), is_over=st.booleans())
    def hold(self, at: int, on: str, is_over: bool) -> None:
        """An officer puts a hold on something that is stored; one that is over was put when it was not."""
        if not self.objects or self.holds:  # with many, nothing is ever erased
            return
        one = self.objects[at % len(self.objects)]
        if not {"study": one.study, "patient": one.patient, "instance": one.instance}[on]:
            return
        made = {
            "study": Held(study=one.study),
            "patient": Held(patient=one.patient, issuer=ISSUERS[at % 3]),
            "instance": Held(instance=one.instance),
        }[on]
        until = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=-2 if is_over else 0)
        note = Hold(
            made.study, made.patient, "r", until.isoformat(), OFFICER, clock_ms(), made.issuer, made.instance
        )  # fmt: skip
        if on == "instance" and all(each.study for each in self.objects if each.instance == one.instance):
            with pytest.raises(InputError, match="belongs to a study"):
                HoldAdmin(self.engine).add(note)
            return
        self.holds[HoldAdmin(self.engine).add(note)] = replace(made, is_over=is_over)

    @rule()
    def unhold(self) -> None:
        """An officer takes the hold away."""
        for hold_id in self.holds:
            HoldAdmin(self.engine).remove(hold_id, WHO)
        self.holds = {}

    @rule()
    def rebuild(self) -> None:
        """The index is lost, and made anew."""
        self.engine.rebuild_index(lambda _done, _total: None)

    def issuer(self, one: Stored, among: list[Stored]) -> str:
        """No issuer means the only one that what is served of the same study has for this ID."""
        if one.issuer or not one.patient or not one.study:
            return one.issuer if one.patient else ""
        among = serves(among)
        named = {
            each.issuer for each in among if (each.study, each.patient) == (one.study, one.patient) and each.issuer
        }
        return named.pop() if len(named) == 1 else ""

    def who(self, one: Stored) -> tuple[str, str]:
        return one.patient, self.issuer(one, self.objects)

    def is_kept(self, to_shred: list[Stored]) -> bool:
        places = {(one.study, one.part[3]) for one in to_shred}
        beside = [one for one in self.objects if (one.study, one.part[3]) in places]
        if any(held.is_about(one) for held in self.holds.values() for one in beside):
            return True
        return any(one.counts_from().year + YEARS >= dt.datetime.now(dt.UTC).year for one in beside)

    def erase(self, choose: Callable[[], list[PartToShred]], meant: list[Stored] | type[CofferError]) -> None:
        """Shred what `choose` gives; the model knows what that should be, or which error."""
        if isinstance(meant, type):
            with pytest.raises(meant):
                choose()
            return
        to_shred = choose()
        assert sum(each.versions for each in to_shred) == len(meant)
        assert sum(each.instances for each in to_shred) == len([one for one in serves(self.objects) if one in meant])
        if self.is_kept(meant):
            with pytest.raises(AccessDeniedError):
                Shredding(self.engine).shred(to_shred, Authorization("r", (OFFICER,)))
            return
        places = {one.number: self.located(one) for one in meant}
        assert Shredding(self.engine).shred(to_shred, Authorization("r", (OFFICER,)))
        self.engine.reconcile()
        for one in meant:
            with pytest.raises(ShreddedError), self.engine.open_body(*places[one.number]) as body:
                body.read(0, 1)
        self.objects = [one for one in self.objects if one not in meant]

    def located(self, one: Stored) -> tuple[bytes, object]:
        """Key and place of an object in the log."""
        for found in self.engine.index.versions(one.instance):
            with self.engine.open_body(found.located.study_key_id, found.located.version) as body:
                if b"".join(body.chunks()) == one.data:
                    return found.located.study_key_id, found.located.version
        raise AssertionError("not in the archive")

    @rule(at=st.integers(0, 9), way=st.sampled_from(WAYS), issuer=st.sampled_from((None, None, "mine", *ISSUERS)))
    def shred(self, at: int, way: str, issuer: str | None) -> None:
        """An officer erases what has to do with an object: its study, its patient's part of it, all of the patient."""
        if not self.objects:
            return
        one = self.objects[at % len(self.objects)]
        issuer = self.who(one)[1] if issuer == "mine" else issuer
        if way == "patient":
            self.shred_patient(one.patient, issuer)
        elif way == "instance":
            self.shred_instance(one.instance, issuer)
        elif one.study:
            under = [each for each in self.objects if each.study == one.study]
            patient = one.patient if way == "part" else None
            self.shred_uid(by_study, one.study, under, patient, issuer, way == "everybody")
        else:
            self.shred_instance(one.instance, issuer)

    def shred_instance(self, instance: str, issuer: str | None) -> None:
        all_of = [one for one in self.objects if one.instance == instance]
        alone = [one for one in all_of if not one.study]
        if not alone:
            self.erase(lambda: by_instance(self.engine, instance), InputError)
            return
        patient = alone[0].patient if issuer is not None else None
        self.shred_uid(by_instance, instance, alone, patient, issuer, False)

    def shred_uid(
        self,
        by: Callable[..., list[PartToShred]],
        uid: str,
        under: list[Stored],
        patient: str | None,
        issuer: str | None,
        everybody: bool,
    ) -> None:
        issuer = issuer if patient is not None else None
        meant = [one for one in under if patient in (None, one.patient) and issuer in (None, self.who(one)[1])]
        right: list[Stored] | type[CofferError] = meant
        if everybody:
            right = under or NotFoundError
        elif not meant:
            right = NotFoundError
        elif len({self.who(one) if one.patient else one.part for one in meant}) > 1:
            right = SeveralPatientsError
        self.erase(lambda: by(self.engine, uid, patient, issuer, everybody=everybody), right)

    def shred_patient(self, patient: str, issuer: str | None) -> None:
        if not patient:
            self.erase(lambda: by_patient(self.engine, patient, issuer), InputError)
            return
        theirs = [one for one in self.objects if one.patient == patient]
        meant = [one for one in theirs if issuer in (None, self.who(one)[1])]
        right: list[Stored] | type[CofferError] = meant
        if not meant:
            right = NotFoundError
        elif len({self.who(one) for one in meant}) > 1:
            right = InputError
        self.erase(lambda: by_patient(self.engine, patient, issuer), right)

    @invariant()
    def the_archive_has_what_the_model_has(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.engine.index.follow()
        served = serves(self.objects)
        for instance in INSTANCES:
            found = self.engine.index.versions(instance)
            for study in STUDIES:
                chain = sorted((each for each in found if each.part.study_uid == study), key=lambda each: each.number)
                right = [one for one in self.objects if (one.study, one.instance) == (study, instance)]
                assert [each.number for each in chain] == list(range(1, len(right) + 1))
                for each, one in zip(chain, right, strict=True):
                    with self.engine.open_body(each.located.study_key_id, each.located.version) as body:
                        assert b"".join(body.chunks()) == one.data
                    assert msgspec.structs.astuple(each.part) == one.part
                    assert each.is_served == (one in served)
        for study in STUDIES[1:]:
            told = sorted((p.patient_id, p.issuer, p.versions, p.instances) for p in self.engine.index.parts(study))
            parts = {one.part for one in self.objects if one.study == study}
            assert told == sorted(
                (
                    part[1],
                    part[2],
                    sum(one.part == part for one in self.objects),
                    sum(one.part == part for one in served),
                )
                for part in parts
            )


Model.TestCase.settings = settings(
    max_examples=int(os.environ.get("HOLDS_EXAMPLES", "40")),
    stateful_step_count=12,
    deadline=None,
    derandomize="HOLDS_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
test_sequences_of_stores_holds_and_shreds = Model.TestCase
