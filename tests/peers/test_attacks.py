"""Every attack of the bench on one server: it meets its reaction, memory stays, and an honest peer is served beside it.

Delays are measured by `python -m bench.attacks`, not here.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from bench.attackers import ATTACKS, Attack
from bench.attacks import AttackedServer, HonestPeer, attacking
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.verify import Verifier

# What the allocator keeps of what was under way at a time: 16 MiB of each deflated header, 1 MiB of each identifier,
# and the stacks of a hundred threads. 70 MiB were seen, and no more after ten times as many bombs.
_GROWTH_BYTES = 128 << 20
_SECONDS = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedServer]:
    made = AttackedServer(tmp_path_factory.mktemp("attacked") / "server")
    with made:
        HonestPeer(made.doors.dimse).work(lambda: False)
        yield made
    assert list(Verifier(ArchiveFolder.open(made.folder / "archive")).findings()) == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.name)
def test_an_attack_meets_its_reaction_and_an_honest_peer_is_served(server: AttackedServer, attack: Attack) -> None:
    peer, before = HonestPeer(server.doors.dimse), server.anonymous_bytes()
    over, seen = threading.Event(), Counter[str]()
    thread = threading.Thread(target=attacking, args=(attack, server.doors, over.is_set, 1, seen))
    thread.start()
    try:
        assert peer.work(lambda: False)
        deadline = time.monotonic() + _SECONDS
        while not attack.reactions & seen.keys():
            assert time.monotonic() < deadline, seen
            time.sleep(0.01)
        assert peer.work(lambda: False)
        grown = server.anonymous_bytes() - before
    finally:
        over.set()
        thread.join()
    assert grown < _GROWTH_BYTES, attack.name
