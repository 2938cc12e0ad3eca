"""The damaged and hostile files: each is stored exactly as it was received, or refused with a reason.

malformed_outcomes.csv is the list a person has read. After a change that is meant to alter it, write it anew with
COFFER_WRITE_GOLDEN=1 and read the difference.
"""

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.server.access.principal import Principal
from coffer.server.config.load import load_config
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.engine.opening import open_writer
from coffer.server.services.importing import Importer, Outcome
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, Reply, item_of, split_part10, store, uid
from tests.server.dimse.raw_peer import RawRequestor
from tests.services import services

GOLDEN = Path(__file__).with_name("malformed_outcomes.csv")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CPU_SECONDS = 2.0
GROWTH_BYTES = 256 << 20
COUNT = 205


def as_request(path: Path, number: int) -> Item:
    """The file as a sender would offer it: by its file meta as far as that can be read, else under made-up names."""
    item = item_of(path)
    plain = "0123456789."
    sop_class = item.sop_class if item.sop_class and set(item.sop_class) <= set(plain) else SECONDARY_CAPTURE
    usable = 0 < len(item.sop_instance) <= 64 and set(item.sop_instance) <= set(plain)
    name = item.sop_instance if usable else f"1.2.826.0.1.3680043.8.498.205.{number}"
    syntax = (
        item.transfer_syntax
        if item.transfer_syntax and set(item.transfer_syntax) <= set(plain)
        else "1.2.840.10008.1.2"
    )
    return Item(sop_class[:64], name, syntax[:64], item.data)


def exported(coffer: CofferProcess, folder: Path, names: list[str]) -> dict[str, set[str]]:
    """The data set hashes `coffer get` returns, by SOP Instance UID."""
    coffer.run("get", *(a for name in names for a in ("--instance", name)), "--out", str(folder), check=False)
    out: dict[str, set[str]] = {name: set() for name in names}
    for file in (f for f in folder.rglob("*") if f.is_file()):
        # Coffer states the right group length; some of these data sets begin with a group 0002 of their own.
        content = file.read_bytes()
        end = 144 + int.from_bytes(content[140:144], "little")
        meta, data = split_part10(content[:end])[0], content[end:]
        out.setdefault(uid(meta.get(3)), set()).add(hashlib.sha256(data).hexdigest())
    return out


def send(port: int, item: Item) -> Reply:
    """C-STORE one data set. pynetdicom sends no empty one, so that it goes raw."""
    if item.data:
        return store(port, [item])[0]
    with RawRequestor(port, [Offer(1, item.sop_class, (item.transfer_syntax,))]) as peer:
        peer.request(peer.contexts[1], dimse.C_STORE, b"", AFFECTED_INSTANCE=item.sop_instance)
        answer = peer.final()
    return Reply(answer.status, answer.comment)


def put(coffer: CofferProcess, files: list[Path]) -> list[str]:
    """What `coffer put` makes of each file, one by one in this process for the CPU it costs, then by the command."""
    results = []
    with open_writer(load_config(coffer.config)) as engine:
        importer = Importer(services(engine), Principal.peer("COFFER"))
        for path in files:
            before = time.process_time()
            results.append(importer.put(path))
            spent = time.process_time() - before
            assert spent < CPU_SECONDS, f"{path.name} cost {spent:.1f} s"
    told = json.loads(coffer.run("put", "--json", *map(str, files), check=False).stdout)
    kept = sum(result.outcome in (Outcome.STORED, Outcome.DUPLICATE) for result in results)
    # Some of them are versions of one instance: what is not equal to the newest of those is a further one.
    assert told["stored"] + told["duplicate"] == kept
    assert told["stored"] < kept // 5
    mine = {str(path) for path in files}  # a DICOMDIR among them names files that are not there
    reasons = {one["path"]: one["reason"] for one in told["not_stored"] if one["path"] in mine}
    assert reasons == {str(r.path): r.reason for r in results if r.reason}
    return [f"{r.outcome}: {r.reason}".removesuffix(": ") for r in results]


def outcome(path: str, reply: Reply, kept: bool, put_outcome: str) -> dict[str, str]:
    """One line of the golden list."""
    returned = "exact" if kept else "no"
    status = f"{reply.status:04X}"
    return {"path": path, "status": status, "returned": returned, "comment": reply.comment, "put": put_outcome}


@pytest.mark.timeout(300)
def test_each_is_stored_exactly_or_refused_with_a_reason(
    new_coffer: Callable[..., CofferProcess],
    malformed: list[Path],
    shared_data: Path,
    tmp_path: Path,
) -> None:
    assert len(malformed) == COUNT
    coffer = new_coffer()
    items = [as_request(path, n) for n, path in enumerate(malformed)]
    store(coffer.port, items[:1])
    memory = coffer.resident_bytes()
    replies = []
    for path, item in zip(malformed, items, strict=True):
        before = coffer.cpu_seconds()
        replies.append(send(coffer.port, item))
        spent = coffer.cpu_seconds() - before
        assert spent < CPU_SECONDS, f"{path.name} cost {spent:.1f} s"
        assert coffer.ready(), f"{path.name} took the server down"
    assert coffer.resident_bytes() - memory < GROWTH_BYTES

    last: dict[str, Item] = {}
    seen: set[tuple[str, bytes]] = set()
    for item, reply in zip(items, replies, strict=True):
        if reply.status == 0 and (item.sop_instance, item.data) not in seen:  # bytes it has already make no new version
            seen.add((item.sop_instance, item.data))
            last[item.sop_instance] = item
    back = exported(coffer, tmp_path / "out", sorted(last))
    rows = []
    by_put = put(new_coffer(serve=False), malformed)
    for path, item, reply, put_outcome in zip(malformed, items, replies, by_put, strict=True):
        newest = last.get(item.sop_instance)
        kept = newest is not None and hashlib.sha256(newest.data).hexdigest() in back[item.sop_instance]
        rows.append(outcome(str(path.relative_to(shared_data)), reply, kept, put_outcome))
        if reply.status == 0:
            assert kept, f"{path.name} was acknowledged and does not come back as it was"
        else:
            assert reply.status is not None, f"{path.name}: {reply.comment}"
            assert reply.comment, f"{path.name} was refused without a reason"
    if os.environ.get("COFFER_WRITE_GOLDEN"):
        with GOLDEN.open("w", newline="") as table:
            writer = csv.DictWriter(table, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    with GOLDEN.open(newline="") as table:
        assert rows == list(csv.DictReader(table))
