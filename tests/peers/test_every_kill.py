"""kill -9 at every system call by which a command about keys changes something: nothing is lost, and it can go on.

strace counts the calls that the command makes on archive, keyring, key file, token and shares; for each, a copy of the
archive is put back and the command is killed as it enters that call. Then the archive opens, every living study comes
back bit for bit, no shredded one does, and the same command finishes the work. The suite takes some calls of each
command, COFFER_EVERY_KILL=1 takes all: docs/keys.md says what came of it.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.peers.killed import (
    BOTH,
    EVERY,
    GONE,
    LARGE,
    LEAVING,
    LIVING,
    NO_SHARES,
    NOTHING,
    REQUEST,
    SEED,
    SHARES,
    TORN,
    Facts,
    Stage,
    again,
    command,
    look,
    prepare,
    set_up,
)
from tests.peers.killing import KILLED, Fork, Point, attach_killer, done, load_first, points

load_first(__name__)

End = Callable[[Facts], bool]


@dataclass(frozen=True, slots=True)
class Case:
    """A command, what comes before it, which studies it takes and which were gone, which codes it may end with when it
    is said again, and whether the archive then is as it should be. `locked`: nothing opens before the command has done
    its work. `proof`: a command that leaves everything readable only where that work is whole."""

    command: tuple[str, ...]
    end: End
    before: tuple[tuple[str, ...], ...] = ()
    takes: tuple[str, ...] = ()
    gone: tuple[str, ...] = (GONE,)
    again: tuple[int, ...] = (0,)
    locked: bool = False
    proof: tuple[str, ...] = ()


def rotated(*providers: str) -> End:
    """One epoch is active, kept by the last of these, and has every key; the others are retired."""

    def check(facts: Facts) -> bool:
        *old, last = facts.epochs
        kept = {provider for provider, _, _ in old} <= {*providers}
        return kept and {each[1:] for each in old} == {("retired", 0)} and last == (providers[-1], "active", 4)

    return check


def shredded(how_many: int, state: str = "scheduled") -> End:
    """So many keys are shredded, all in this state, and no request waits."""
    return lambda facts: facts.shreds == [("shredded", state)] * how_many and facts.requests == 0


def rekeyed(*studies: int) -> End:
    """So many keys were replaced, and there are as many as before. (After its last step, a command does it again.)"""
    return lambda facts: (
        [why for why, _ in facts.shreds].count("rekeyed") in studies and sum(count for _, _, count in facts.epochs) == 4
    )


DESTROY = ("keys", "destroy", "1", "--yes")
SHRED = ("shred", *BOTH[:1], "--reason", "r", "--yes")
SHRED_BOTH = ("shred", "--patient", LEAVING, "--reason", "r", "--yes")
SPLIT = ("keys", "split", "-n", "2", "-k", "2", "-o", "out")
REASON = ("--reason", "r", "--yes")
CASES = {
    "rotate": Case(("keys", "rotate"), rotated("keyfile"), proof=DESTROY),
    "rotate to the HSM": Case(("keys", "rotate", "--provider", "pkcs11"), rotated("keyfile", "pkcs11"), proof=DESTROY),
    "rotate from the HSM": Case(
        ("keys", "rotate", "--provider", "file"),
        rotated("keyfile", "pkcs11", "keyfile"),
        before=(("keys", "rotate", "--provider", "pkcs11"),),
        proof=("keys", "destroy", "2", "--yes"),
    ),
    "rekey": Case(("keys", "rekey", LARGE, *REASON), rekeyed(1, 2)),
    "rekey all": Case(("keys", "rekey", "--all-before", "2", *REASON), rekeyed(4), before=(("keys", "rotate"),)),
    "shred": Case(SHRED, shredded(2), takes=BOTH[:1], again=(0, 5)),
    "shred a patient": Case(SHRED_BOTH, shredded(3), takes=BOTH, again=(0, 5)),
    "finish": Case(
        ("shred", "finish"),
        lambda facts: [each[1:] for each in facts.epochs] == [("retired", 0), ("active", 2)] and shredded(3)(facts),
        before=(SHRED_BOTH,),
        gone=(*BOTH, GONE),
    ),
    "finish --destroy": Case(
        ("shred", "finish", "--destroy"),
        lambda facts: (
            [each[1:] for each in facts.epochs] == [("destroyed", 0), ("active", 2)] and shredded(3, "effective")(facts)
        ),
        before=(SHRED_BOTH, ("shred", "finish")),
        gone=(*BOTH, GONE),
    ),
    "request": Case(("shred", "request", BOTH[0], "--reason", "r"), lambda facts: facts.requests in (1, 2)),
    "approve": Case(
        ("shred", "approve", REQUEST, "--officer", "Schmidt"),
        shredded(2),
        before=(("shred", "request", BOTH[0], "--reason", "r", "--officer", "Meyer"),),
        takes=BOTH[:1],
        again=(0, 5),
    ),
    "destroy": Case(
        DESTROY,
        lambda facts: [state for _, state, _ in facts.epochs] == ["destroyed", "active"],
        before=(("keys", "rotate"),),
    ),
    "destroy in the HSM": Case(
        ("keys", "destroy", "2", "--yes"),
        lambda facts: [state for _, state, _ in facts.epochs] == ["retired", "destroyed", "active"],
        before=(("keys", "rotate", "--provider", "pkcs11"), ("keys", "rotate", "--provider", "file")),
    ),
    "split": Case(SPLIT, lambda facts: facts.drill == 0 and len(facts.groups) == 1),
    "recover": Case(
        ("keys", "recover", SHARES),
        lambda facts: facts.drill == 0 and [each[1:] for each in facts.epochs] == [("active", 4)],
        before=(SPLIT, ("mv", "keys/coffer.key", "lost.key")),
        locked=True,
    ),
    "rotate the signing key": Case(("keys", "rotate-signing", "--reason", "r"), lambda facts: facts.signing in (2, 3)),
    "hold": Case(("hold", "add", LIVING[0], "--reason", "court"), lambda facts: facts.holds in (1, 2)),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with set_up(tmp_path_factory.mktemp("kills")) as stage:
        yield stage


@pytest.fixture(scope="module")
def kinds() -> set[str]:
    """The kinds of call that something was killed at."""
    return set()


def of_ours(found: list[Point]) -> list[Point]:
    """Without what SoftHSM does within a call: it rewrites its files in place, and a kill there breaks the token.

    An HSM is not in the process that dies. What it had before and after is met by the calls around.
    """
    pairs = zip([None, *found], found, strict=False)
    return [point for before, point in pairs if not (point.is_in("hsm") and before is not None and before.is_in("hsm"))]


def chosen(found: list[Point], kinds: set[str], dice: random.Random) -> list[Point]:
    """All of them, or one by chance and one of each kind that was not taken yet."""
    if EVERY:
        return found
    fresh = {point.call: point for point in dice.sample(found, len(found)) if point.call not in kinds}
    kinds.update(fresh)
    return list(dict.fromkeys([dice.choice(found), *fresh.values()]))


@pytest.mark.timeout(7200 if EVERY else 300)
@pytest.mark.parametrize("name", CASES)
def test_killed_at_a_call_it_loses_nothing_and_goes_on(stage: Stage, kinds: set[str], name: str) -> None:
    case = CASES[name]
    stage.put_back(stage.start)
    words = done(stage.base, prepare, case.before, case.command)
    kept = stage.keep("case")
    every, (code, output) = points(Fork(stage.base, command, *words), stage.start.with_name("trace"))
    assert code == 0, output
    found = of_ours(every)
    wrong, killed = [], 0
    dice = random.Random(f"{SEED} {name}")
    wanted = chosen(found, kinds, dice)
    # A call that this run does not make, because threads took turns otherwise, kills nobody: then others are tried.
    for at, point in enumerate([*wanted, *dice.sample(found, min(len(found), 5))]):
        if at >= len(wanted) and killed:
            break
        stage.put_back(kept)
        fork = Fork(stage.base, command, *words)
        attach_killer(fork, point)
        fork.go()
        if fork.finish() != KILLED:
            print(f"{name}: not met: {point}")
            continue
        killed += 1
        try:
            goes_on(stage, case, words)
        except AssertionError as error:
            wrong.append(f"killed at {point}: {error}")
    print(f"{name}: {killed} kills at {len(found)} calls, {len(every) - len(found)} more in SoftHSM")
    assert killed
    assert not wrong, f"{len(wrong)} of {killed} kills, seed {SEED}\n" + "\n".join(wrong)


def goes_on(stage: Stage, case: Case, words: tuple[str, ...]) -> None:
    """After a kill everything is well, and the same command does the rest."""
    facts = done(stage.base, look)
    if facts.opens or not case.locked:
        stage.check(facts, "after the kill", takes=case.takes, gone=case.gone, harmless=TORN)
    assert facts.drill in (NO_SHARES, 0), "a folder of shares is there that does not give the key"
    code, output, facts = done(stage.base, again, *words)
    assert code in case.again, output
    stage.check(facts, "said again", takes=(), gone=(*case.gone, *case.takes), harmless=NOTHING)
    assert (facts.audit, facts.left, facts.unreadable) == ([], [], 0), facts
    assert case.end(facts), facts
    if case.proof:
        code, output, facts = done(stage.base, again, *case.proof)
        assert code == 0, output
        stage.check(facts, "proved", takes=(), gone=(*case.gone, *case.takes), harmless=NOTHING)
