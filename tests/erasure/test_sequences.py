"""Whatever happens to an epoch, in whatever order: what is called erased opens nowhere, and what ended is called so.

All sequences of up to three steps and a sample of those of four and five; `python -m tests.erasure` tries all 37,448.
"""

import os
import random
from pathlib import Path

import pytest

from coffer.keys.shares.recovery import Recovery
from coffer.keys.store.keyring_store import scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from tests.erasure.campaign import Tally, prefixes, walk
from tests.erasure.hsmstore import TokenStore
from tests.erasure.model import STEPS, Model
from tests.erasure.world import ARCHIVE_ID, World, difference, finished
from tests.keys import softhsm

SEED = int(os.environ.get("COFFER_ERASURE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
SAMPLE = int(os.environ.get("COFFER_ERASURE_SAMPLE", "60"))


def test_every_short_sequence(tmp_path: Path) -> None:
    tally = Tally()
    for number, prefix in enumerate(prefixes(1)):
        (tmp_path / str(number)).mkdir()
        walk(tmp_path / str(number), prefix, 2, tally)
    assert tally.wrong == []
    assert tally.sequences == 8 + 64 + 512
    assert tally.erased > 10


def test_a_sample_of_longer_ones(tmp_path: Path) -> None:
    chosen, tally = random.Random(SEED), Tally()
    for number in range(SAMPLE):
        steps = tuple(chosen.choices(STEPS, k=chosen.randint(4, 5)))
        (tmp_path / str(number)).mkdir()
        walk(tmp_path / str(number), steps, 0, tally, alone=True)
    assert tally.wrong == [], f"COFFER_ERASURE_SEED={SEED}"


def test_with_a_real_token(tmp_path: Path) -> None:
    """Those whose first step moves the keys into an HSM, the recoveries from it first; a sample of the rest."""
    chosen = random.Random(SEED)
    tails = [("split", "recover", "shred", "finish"), ("shred", "finish", "old copy", "finish")]
    tails += [tuple(chosen.choices(STEPS, k=3)) for _ in range(6)]
    for number, tail in enumerate(tails):
        hsm = softhsm.make(tmp_path / f"hsm{number}")
        hsm.restart()
        store = TokenStore(hsm, ARCHIVE_ID, tmp_path / f"backup{number}")
        world, model = World.begin(tmp_path / f"keyring{number}", store), Model()
        for name in ("change", *tail):
            world.step(name)
            model.step(name)
            wrong = difference(world, model)
            assert not wrong, f"change, {', '.join(tail)} at {name}: {wrong} (COFFER_ERASURE_SEED={SEED})"
        assert not finished(world, model), f"change, {', '.join(tail)} (COFFER_ERASURE_SEED={SEED})"
        world.close()


def test_an_epoch_that_forgets_what_kept_it_before_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself: a recovery that overwrites the provider in the epoch's row, and keeps nothing of it."""
    put, move = LmdbKeyringStore.put, Recovery.move

    def forgetting(self: LmdbKeyringStore, rows: object, *args: object, **more: object) -> bool:
        done = put(self, rows, *args, **more)  # type: ignore[arg-type]
        before = [key for key, value in scan(self, b"U") if b"file 0" in value]
        return done and put(self, [], before)

    def moving(*args: object) -> bool:
        with monkeypatch.context() as patched:
            patched.setattr(LmdbKeyringStore, "put", forgetting)
            return move(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Recovery, "move", moving)
    tally = Tally()
    walk(tmp_path, ("split", "recover", "shred", "finish"), 0, tally, alone=True)
    (wrong,) = tally.wrong
    assert "called erased, and" in wrong
