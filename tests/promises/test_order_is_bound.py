"""Promise: which version of an instance is the newest is sealed with the versions, and not only where they lie.

Adversary: whoever rewrites the log without keys, and recomputes whatever can be recomputed: headers, hashes, chain,
tags, tree. Swapping two versions makes the older image the one that is served; removing one brings back what it
replaced. Crossed with: senders at the same time, another patient's version, erasure, rekey, a rebuilt index.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest

from coffer.archive.format.entry import Entry
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint_history import begin
from coffer.archive.verify.verify import Options, Verifier, VerifyLevel
from coffer.keys.keyring.shred import schedule
from coffer.server.access.principal import Principal
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.config.settings import Dimse
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.engine.checkpoint_signer import in_force
from coffer.server.engine.opening import open_for_rebuild, open_reading
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.keyops.rekey_order import carry_out, one_study, order
from coffer.server.main.demo import encoded
from coffer.server.main.service import Server
from coffer.server.maintenance.deep_check import open_records
from coffer.server.maintenance.problems import conflicts
from coffer.server.maintenance.version_order import VersionOrder
from tests.promises.test_patients_apart import SC, STUDY, Archive, Thing, archive
from tests.server.filled import free_port, run, told

__all__ = ["archive"]

Records = list[tuple[RecordHeader, bytes]]
SOP = "2.25.83"
OLD = Thing(SOP, "A", series=f"{STUDY}.1", remark="old")
NEW, NEWEST = replace(OLD, remark="new"), replace(OLD, remark="newest")
MOVED = replace(OLD, patient="BB", remark="of another patient")


def contradictions(archive: Archive, since: int | None = None, jobs: int = 1) -> list[int | None]:
    """The records that a verification with keys reports; there is no other finding, for no hash is wrong."""
    options = Options(VerifyLevel.DECRYPT, since=since, jobs=jobs)
    folder = ArchiveFolder.open(archive.config.archive)
    opened = partial(open_records, archive.config)
    found = list(Verifier(folder, options, open_records=opened, comparison=VersionOrder()).findings())
    assert all(each.what.startswith("version order contradicts this record") for each in found), found
    return [each.seq for each in found]


def objects(records: Records) -> list[int]:
    return [at for at, (header, _) in enumerate(records) if header.kind == Kind.OBJECT]


def rewrite(archive: Archive, change: Callable[[Records], object]) -> None:
    """Write the log anew with other records, or in another order, each at the time that stood in its place, and
    have all of it signed, as if it had been so from the beginning: not even the mark outside knows better."""
    folder = ArchiveFolder.open(archive.config.archive)
    reader = LogReader(folder)
    records = [(header, bytes(reader.range_of(at)(0, header.body_len))) for at, header in reader.records()]
    reader.close()
    times, now = [header.time_ms for header, _ in records], [0]
    change(records)
    for part in ("segments", "checkpoints", "tiles", "index"):
        shutil.rmtree(archive.config.archive / part)
        (archive.config.archive / part).mkdir(mode=0o700)
    MarkFile.of(archive.config, folder.archive_id).path.unlink(missing_ok=True)
    keyring = open_keyring(folder, provider_of(archive.config.keys, folder.archive_id))
    signer = in_force(keyring, folder)
    begin(folder, partial(signer.sign_note, folder.origin), keyring.remember_checkpoint)
    log = LogWriter(folder, sign=signer.sign_statement, now_ms=lambda: now[0])
    for now[0], (header, body) in zip(times, records, strict=False):
        log.append([Entry(header.kind, header.study_key_id, header.flags, header.content_id, body)])
    log.checkpoint(partial(signer.sign_note, folder.origin), keyring.remember_checkpoint)
    log.close()
    keyring.close()


def _swap_first_two(records: Records) -> None:
    one, two = objects(records)[:2]
    records[one], records[two] = records[two], records[one]


def _swap_last_two(records: Records) -> None:
    one, two = objects(records)[-2:]
    records[one], records[two] = records[two], records[one]


def _drop_the_first(records: Records) -> None:
    del records[objects(records)[0]]


def _repeat_the_first(records: Records) -> None:
    records[objects(records)[-1]] = records[objects(records)[0]]


@pytest.mark.parametrize("change", [_swap_first_two, _swap_last_two, _drop_the_first, _repeat_the_first])
@pytest.mark.parametrize("versions", [(OLD, NEW, NEWEST), (OLD, MOVED, NEW), (OLD, NEW, OLD)])
def test_versions_that_were_swapped_or_removed_are_found(
    archive: Archive, versions: tuple[Thing, ...], change: Callable[[Records], None]
) -> None:
    archive.put(*versions, Thing("2.25.84", "A"))
    assert contradictions(archive) == []
    rewrite(archive, lambda records: records.pop(objects(records)[-1]))  # one that has no other versions
    assert contradictions(archive) == []
    rewrite(archive, change)
    assert contradictions(archive)


def test_a_rebuilt_index_serves_what_the_log_says_and_names_the_contradiction(archive: Archive) -> None:
    archive.put(OLD, NEW)
    with open_reading(archive.config) as engine:
        (fine,) = conflicts(engine)
        assert (len(fine.records), fine.contradictions) == (2, ())
    rewrite(archive, _swap_first_two)
    with open_for_rebuild(archive.config) as engine:
        engine.rebuild_index(lambda *_: None)
        (wrong,) = conflicts(engine)
        assert [each.split(":")[0] for each in wrong.contradictions] == [f"record {seq}" for seq in wrong.records]
        (served,) = engine.index.locate({0x00080018: (SOP,)})
        assert served.version.seq == wrong.records[-1]
    assert contradictions(archive) == list(wrong.records)
    file = archive.config.archive.parent / "coffer.toml"
    file.write_text(f'archive = "{archive.config.archive}"\n[keys]\nkey_file = "{archive.config.keys.key_file}"\n')
    assert told("index", "rebuild", "--config", str(file))["contradictions"] == list(wrong.contradictions)
    assert run("verify", "--level", "decrypt", "--config", str(file), code=1).output.count("version order") == 2
    assert "version order contradicts" in run("status", "--list", "--config", str(file)).output


def test_versions_of_several_patients_are_one_chain_and_an_erasure_is_no_contradiction(archive: Archive) -> None:
    archive.put(OLD, MOVED, NEW)
    assert contradictions(archive) == []
    with archive.open() as engine:
        (part,) = engine.index.parts_of_patient("BB")
        schedule(engine.keyring, dict.fromkeys(part.key_ids, part.name), now_ms=1, until_ms=2)
        engine.reconcile()
    archive.put(NEWEST)
    assert contradictions(archive) == []
    with open_reading(archive.config) as engine:
        assert [each.contradictions for each in conflicts(engine)] == [()]
    rewrite(archive, _swap_last_two)
    assert len(contradictions(archive)) == 2


def test_the_order_outlives_a_rekey_and_a_rebuild(archive: Archive) -> None:
    archive.put(OLD, NEW)
    with archive.open() as engine:
        carry_out(engine, order(engine, one_study(engine, STUDY), "test", Principal.here("tester")), lambda *_: None)
    archive.put(NEWEST)
    with archive.open() as engine:
        grown = [each.located.version for each in engine.index.versions(SOP)]
    with open_for_rebuild(archive.config) as engine:
        engine.rebuild_index(lambda *_: None)
        assert [each.located.version for each in engine.index.versions(SOP)] == grown
    assert [each.previous for each in grown] == [b"", *(each.first_content_id for each in grown[:-1])]
    assert grown[0].original not in {b"", grown[0].content_id}
    assert contradictions(archive) == []


@pytest.fixture
def server(tmp_path: Path, archive: Archive) -> Iterator[Server]:
    archive.config = msgspec.structs.replace(archive.config, dimse=Dimse(port=free_port(), processes=2))
    with Server(archive.config) as running:
        yield running


def test_two_who_send_versions_of_one_instance_at_once_leave_a_chain(archive: Archive, server: Server) -> None:
    def send(name: str) -> None:
        offers = [Offer(1, SC, (EXPLICIT_LE,))]
        with Requestor("127.0.0.1", archive.config.dimse.port, name, "COFFER", offers, 20.0) as peer:
            for number in range(12):
                data = encoded(replace(OLD, remark=f"{name} {number}").data_set)
                while peer.store(peer.contexts[1], SOP, [data]) != 0:
                    pass  # the other one was faster each time: it is told to send the object again

    threads = [threading.Thread(target=send, args=(name,)) for name in ("ONE", "TWO")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = [each.located.version for each in server.services.archive.index.versions(SOP)]
    assert [each.previous for each in found] == [b"", *(each.content_id for each in found[:-1])]
    assert len(found) == 24
    assert len({each.source_ae for each in found}) == 2
