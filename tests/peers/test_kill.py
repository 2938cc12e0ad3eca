"""kill -9 again and again under load: whatever was acknowledged is there afterwards, bit for bit.

Some objects are large enough to be spooled and sealed in files, and now and then the keys are rotated meanwhile.
The seed is printed; COFFER_KILL_SEED repeats a run as far as timing allows, COFFER_KILL_ROUNDS=50 is the long run.
"""

import contextlib
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable

import pytest

from coffer.keys.errors import CofferError
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.dimse.protocol.requestor import Requestor
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, find, get, noisy, split_part10, synthetic
from tests.peers.ward import SPOOLING
from tests.peers.wiretap import WireTap

ROUNDS = int(os.environ.get("COFFER_KILL_ROUNDS", "7"))
SECONDS = max(240, 12 * ROUNDS)
SENDERS = 3
ROTATED_EVERY = 12


def some_object(number: int, study: int) -> Item:
    """Small, or every ninth too large for memory."""
    return synthetic(number, 2000 + number * 37 % 30000, study) if number % 9 else noisy(number, 300_000, study)


def send_until_dead(port: int, first: int, study: int, acknowledged: dict[str, str], stop: threading.Event) -> None:
    """Store one data set after the other until the server is gone; note the SHA-256 of each that was acknowledged."""
    sample = synthetic(0)
    offers = [Offer(1, sample.sop_class, (sample.transfer_syntax,))]
    number = first
    # pynetdicom's association can hang for half a minute when its peer dies, and here it dies in whatever it is doing.
    with contextlib.suppress(CofferError), Requestor("127.0.0.1", port, "KILLER", "COFFER", offers, 10.0) as peer:
        (context,) = peer.contexts.values()
        while not stop.is_set():
            item = some_object(number, study)
            if peer.store(context, item.sop_instance, [item.data]) == 0:
                acknowledged[item.sop_instance] = hashlib.sha256(item.data).hexdigest()
            number += 1


def kill_once(coffer: CofferProcess, dice: random.Random, round_number: int, acknowledged: dict[str, str]) -> None:
    """One life of the server: start, load from several senders, death at a random moment."""
    coffer.start()
    stop = threading.Event()
    senders = [
        threading.Thread(
            target=send_until_dead, args=(coffer.port, round_number * 10_000, n + 1, acknowledged, stop), daemon=True
        )
        for n in range(SENDERS)
    ]
    for n, sender in enumerate(senders):
        sender.start()
        if n == 0 and dice.random() < 0.2:
            time.sleep(dice.uniform(0, 0.02))  # sometimes the others are still negotiating
    if round_number % ROTATED_EVERY == 1:
        senders.append(threading.Thread(target=coffer.run, args=("keys", "rotate")))
        senders[-1].start()
        time.sleep(dice.uniform(0.2, 1.5))  # it takes about so long to begin
    time.sleep(dice.uniform(0.02, 0.5))
    coffer.kill()
    stop.set()
    for sender in senders:
        sender.join(20)


def read_without_a_writer(coffer: CofferProcess, acknowledged: dict[str, str]) -> None:
    """After the last kill, before anybody opens the archive for writing: a command gives all that was acknowledged."""
    out = coffer.base / "read"
    studies = [str(row["StudyInstanceUID"]) for row in coffer.json("find")]  # type: ignore[attr-defined]
    coffer.run("get", *(part for uid in studies for part in ("--study", uid)), "--out", str(out))
    came = {path.stem: split_part10(path.read_bytes())[1] for path in out.rglob("*.dcm")}
    lost = [name for name in acknowledged if name not in came]
    assert not lost, f"{len(lost)} acknowledged objects are not given, such as {lost[:3]}"
    assert all(hashlib.sha256(came[name]).hexdigest() == digest for name, digest in acknowledged.items())


@pytest.mark.timeout(SECONDS + 300)  # it may take long to read everything back on a busy machine
def test_no_kill_loses_anything_that_was_acknowledged(
    new_coffer: Callable[..., CofferProcess],
    tap: Callable[[int], WireTap],
) -> None:
    seed = int(os.environ.get("COFFER_KILL_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"COFFER_KILL_SEED={seed}")
    dice = random.Random(seed)
    coffer = new_coffer(extra=SPOOLING, serve=False, workers=2)
    acknowledged: dict[str, str] = {}
    begin, rounds = time.monotonic(), 0
    while rounds < ROUNDS and time.monotonic() - begin < SECONDS:
        kill_once(coffer, dice, rounds, acknowledged)
        rounds += 1
    print(f"{rounds} kills, {len(acknowledged)} acknowledged objects, {time.monotonic() - begin:.0f} s")
    assert rounds == ROUNDS, "the machine is too slow for this many kills: COFFER_KILL_ROUNDS says how many"
    assert len(acknowledged) > rounds

    read_without_a_writer(coffer, acknowledged)
    coffer.start()
    wire = tap(coffer.port)
    sample = synthetic(0)
    for study in find(coffer.port, "STUDY", StudyInstanceUID=""):
        final = get(
            wire.port, [(sample.sop_class, sample.transfer_syntax)], StudyInstanceUID=str(study.StudyInstanceUID)
        )
        assert final.Status == 0
    back = wire.newest("received")
    lost = [name for name in acknowledged if name not in back]
    assert not lost, f"{len(lost)} acknowledged objects are gone, such as {lost[:3]}"
    changed = [name for name, digest in acknowledged.items() if back[name].sha256 != digest]
    assert not changed, f"{len(changed)} acknowledged objects changed, such as {changed[:3]}"
    keys = coffer.json("keys", "list")
    assert isinstance(keys, dict)
    assert len(keys["epochs"]) > 1, "no rotation came through"
