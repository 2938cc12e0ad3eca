"""C-MOVE and C-GET while another process rotates the keys over and over, and destroys the epochs that it leaves."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import SecondaryCaptureImageStorage

from tests.peers.coffer_process import CofferProcess, Peer, free_port
from tests.peers.dicom_client import get, move, store, synthetic

STUDIES, IMAGES, ROTATIONS = 4, 3, 6
ELE = "1.2.840.10008.1.2.1"

# Pages of ten rows among 400 idle keys: every retrieval meets keys that have moved and keys that have not.
ROTATE = """
import sys
from pathlib import Path
from coffer.keys.keyring import rotation
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.keyring.keyring import Keyring
rotation._PAGE = 10
ring = Keyring.open(Path(sys.argv[1]), KeyFileProvider(Path(sys.argv[2])))
ring.new_studies(400)
for _ in range(int(sys.argv[3])):
    ring.rotate()
    ring.destroy_epoch(ring.epoch - 1)
print(ring.epoch)
"""


def completed(status: Dataset) -> tuple[int, int]:
    return int(status.Status), int(status.NumberOfCompletedSuboperations)


def test_studies_are_moved_and_got_while_their_keys_are_rotated(new_coffer: Callable[..., CofferProcess]) -> None:
    port = free_port()
    coffer = new_coffer([Peer("MOVEDST", port)])
    items = [synthetic(100 * study + n, study=study) for study in range(STUDIES) for n in range(IMAGES)]
    assert {reply.status for reply in store(coffer.port, items)} == {0}
    sent = {item.sop_instance: item.data for item in items}
    arrived: list[tuple[str, bytes]] = []
    outcomes: dict[str, list[tuple[int, int]]] = {"move": [], "get": []}
    over = threading.Event()

    def keep(event: evt.Event) -> int:
        arrived.append((str(event.request.AffectedSOPInstanceUID), event.request.DataSet.getvalue()))
        return 0

    def retrieve(service: str, once: Callable[[str], Dataset]) -> None:
        number = 0
        while not over.is_set() or number < STUDIES:
            uid = f"1.2.826.0.1.3680043.8.498.77.{number % STUDIES}"
            outcomes[service].append(completed(once(uid)))
            number += 1

    destination = AE("MOVEDST")
    destination.add_supported_context(SecondaryCaptureImageStorage, ELE)
    scp = destination.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    contexts = [(str(SecondaryCaptureImageStorage), ELE)]
    threads = [
        threading.Thread(
            target=retrieve, args=("move", lambda uid: move(coffer.port, "MOVEDST", StudyInstanceUID=uid))
        ),
        threading.Thread(target=retrieve, args=("get", lambda uid: get(coffer.port, contexts, StudyInstanceUID=uid))),
    ]
    command = [sys.executable, "-c", ROTATE, str(coffer.archive / "keyring"), str(coffer.key_file), str(ROTATIONS)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as rotating:
            for thread in threads:
                thread.start()
            epoch = rotating.communicate(timeout=120)[0]
            during = {service: len(found) for service, found in outcomes.items()}
            over.set()
            for thread in threads:
                thread.join(60)
    finally:
        over.set()
        scp.shutdown()
    assert int(epoch) == ROTATIONS + 1
    assert min(during.values()) > 0, during
    assert {outcome for found in outcomes.values() for outcome in found} == {(0, IMAGES)}
    assert len(arrived) == IMAGES * len(outcomes["move"])
    assert all(sent[name] == data for name, data in arrived)
