"""Keys stand in the memory of secrets and nowhere else, in every process of a server; once nobody uses them,
neither they nor what was derived from them stand anywhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

from coffer.keys.crypto import derive
from coffer.keys.crypto.study_key import StudyKey
from coffer.server.config.load import load_config
from coffer.server.dimse.protocol.requestor import Offer, Requestor
from coffer.server.engine.opening import open_reading
from coffer.server.main.demo import encoded
from tests.process_memory import places
from tests.server import three_studies
from tests.server.filled import run
from tests.server.served import serving
from tests.server.three_studies import UIDS, slices

archive = three_studies.archive
CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


def processes(server: Popen[str]) -> list[int]:
    """The server, and its workers."""
    found = [server.pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == server.pid:
                found.append(int(path.parent.name))
        except (OSError, IndexError):
            continue
    return found


def needles(study_uid: str) -> dict[str, bytes]:
    """The study's key, the keys below it and the archive's, as this test knows them."""
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        (key_id,) = engine.index.key_ids_of(study_uid)
        key: StudyKey = engine.keyring.study(key_id)
        own = {label.decode(): engine.keyring.archive_key(label) for label in (derive.EVENT, derive.INDEX_SUM)}
        every = own | {"dek": key.dek, "blob": key.blob, "cid": key.cid, "row": key.row}
        every |= {"kek": engine.keyring._epochs.kek(1)[1], "root": engine.keyring._root}
        return {name: each.reveal() for name, each in every.items()}


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_no_key_stands_in_a_heap_and_none_stays(archive: Path) -> None:
    text = Path("coffer.toml").read_text()
    Path("coffer.toml").write_text(text.replace("[dimse]\n", "[dimse]\nprocesses = 1\n"))
    port = int(re.findall(r"port = (\d+)", text)[0])
    keys = needles(UIDS[0])
    with serving() as server:
        with Requestor("127.0.0.1", port, "TESTER", "COFFER", [Offer(1, CT, (EXPLICIT_LE,))], 20.0) as peer:
            seen = []
            for number, ds in enumerate(slices(UIDS[0], "P-4711")):
                ds.SOPInstanceUID = f"{UIDS[0]}.7.{number}"
                assert peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)]) == 0
                seen.append(places(processes(server)[1], keys))  # at once: its lease is short
            main, worker = processes(server)
            assert 1 in [each["dek"][0] for each in seen]
            seen.append(places(main, keys))
            assert seen[-1]["dek"][0] == 1
            never = ("dek", "kek", "root")  # one that was derived passes through a bytes object of the library
            assert {name: each[name] for each in seen for name in never if each[name][1]} == {}
        study = {name: keys[name] for name in ("dek", "blob", "cid", "row")}
        nowhere = dict.fromkeys(study, (0, 0))
        wait_until(lambda: places(worker, study) == nowhere)
        run("shred", UIDS[0], "--reason", "r", "--yes")
        wait_until(lambda: places(main, study) == places(worker, study) == nowhere)
