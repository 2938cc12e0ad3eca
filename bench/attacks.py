"""What attacks on the doors cost: the server's memory, and the delay of an honest peer beside them.

    python -m bench.attacks [--seconds 4] [--rounds 3] [--only WORDS] [--write]

A server runs with its default limits, but for a deadline of half a second for what strangers have to complete, and
five HTTP requests a second, so that a short stretch meets them. An honest peer, which the configuration knows, opens an
association, sends C-ECHO, C-FIND and C-STORE, and releases it, up to 20 times a second. Each attack runs for a stretch
in a process of its own, on the same processors: a real attacker brings his own. The delay is that of one operation; the
stretch before is the comparison. An attack that does not see its reaction ends the bench: then nothing was measured.
`--write` puts the table into docs/security/limits.md.
"""

import argparse
import contextlib
import multiprocessing
import os
import queue
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

from bench.attackers import ATTACKS, Attack, Doors, attack_once
from bench.figures import percentile
from bench.limits import PAGE
from bench.marked import with_part
from bench.scu import IMPLICIT_LE, STUDY_ROOT_FIND, VERIFICATION, Client, command, fragments
from bench.served import Served, free_port, tree
from bench.studies import EXPLICIT_LE, header_only
from coffer.server.tls.authority import Authority

BEGIN: Final = "<!-- written by `python -m bench.attacks --write` -->"
END: Final = "<!-- end of what bench.attacks writes -->"
_PACE_SECONDS: Final = 0.05
_BOUND_MS: Final = 25.0


class AttackedServer(Served):
    """A server with all its doors."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.doors = Doors(self.port, free_port(), free_port())

    def _configure(self) -> Path:
        authority, path = Authority("Bench authority"), self.folder / "coffer.toml"
        own = authority.issue("coffer", ["localhost", "127.0.0.1"], days=1)
        files = {"ca": authority.itself.certificate_pem, "cert": own.certificate_pem, "key": own.key_pem}
        for name, content in files.items():
            file = self.folder / f"{name}.pem"
            file.touch(0o600)
            file.write_bytes(content)
        path.write_text(
            f'archive = "{self.folder}/archive"\n'
            f"[dimse]\nport = {self.doors.dimse}\ntls_port = {self.doors.tls}\nhandshake_seconds = 0.5\n"
            f"[http]\nport = {self.doors.http}\nrequests_per_second = 5\n"
            f'[tls]\ncertificate_file = "{self.folder}/cert.pem"\nkey_file = "{self.folder}/key.pem"\n'
            f'ca_file = "{self.folder}/ca.pem"\nhandshake_seconds = 0.5\n'
            f'[[peers]]\nae_title = "BENCH"\nhost = "127.0.0.1"\nport = 104\n'
            f'[keys]\nkey_file = "{self.folder}/coffer.key"\n[log]\nlevel = "error"\n',
            encoding="utf-8",
        )
        return path

    def anonymous_bytes(self) -> int:
        """What all processes of the server keep in memory that is backed by no file."""
        return sum(_anonymous(pid) for pid in tree(self.pid))


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


class HonestPeer:
    """Works as a modality and a workstation do, and keeps how long each operation took, in milliseconds."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._number = 0

    def work(self, go_on: Callable[[], bool]) -> list[float]:
        """One association after another, at least one, with a request of each kind. Raises Refused, OSError."""
        waits: list[float] = []
        while go_on() or not waits:
            due = time.perf_counter() + _PACE_SECONDS
            self._once(waits)
            time.sleep(max(0.0, due - time.perf_counter()))
        return waits

    def _once(self, waits: list[float]) -> None:
        self._number += 1
        item = header_only(40_000_000 + self._number // 10, self._number % 10 + 1)
        contexts = [(VERIFICATION, IMPLICIT_LE), (STUDY_ROOT_FIND, IMPLICIT_LE), (item.sop_class, EXPLICIT_LE)]
        with _timed(waits):
            client = Client(self._port, contexts, called="COFFER")
        with client:
            echo = fragments(1, command(0x30, 1, has_data=False, t00000002=VERIFICATION.encode()), is_command=True)
            with _timed(waits):
                assert client.send(echo) == 0
            with _timed(waits):
                list(client.find({0x00080052: b"STUDY", 0x0020000D: b"1.2.3.4"}))
            with _timed(waits):
                client.store(item)


@contextlib.contextmanager
def _timed(waits: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    waits.append(1e3 * (time.perf_counter() - started))


def attacking(
    attack: Attack,
    doors: Doors,
    is_over: Callable[[], bool],
    seed: int,
    counts: Counter[str],
    begun: Callable[[], None] = lambda: None,
) -> None:
    """Attack with threads until it is over; reactions are added to `counts`. `begun` is called once all attack."""
    lock = threading.Lock()
    all_ready = threading.Barrier(attack.attackers, begun)

    def go(number: int) -> None:
        all_ready.wait()
        chance = random.Random(f"{seed}/{number}")  # repeatable
        while not is_over():
            reaction = attack_once(attack, doors, number, chance)
            with lock:
                counts[reaction] += 1

    threads = [threading.Thread(target=go, args=(number,)) for number in range(attack.attackers)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def _attack_in_process(  # what a process is given
    number: int, doors: Doors, begun: Event, over: Event, told: "Queue[Counter[str]]", seed: int
) -> None:
    counts: Counter[str] = Counter()
    attacking(ATTACKS[number], doors, over.is_set, seed, counts, begun.set)
    told.put(counts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One stretch: the honest peer's waits alone and beside the attack in ms, memory before and after, reactions."""

    alone: list[float]
    beside: list[float]
    before: int
    after: int
    reactions: Counter[str]


def measure(server: AttackedServer, number: int, seconds: float, seed: int) -> Outcome:
    """Attack a server for so long, with an honest peer beside. Raises what the honest peer meets."""
    peer = HonestPeer(server.doors.dimse)
    alone = peer.work(_for(seconds))
    before = server.anonymous_bytes()
    context = multiprocessing.get_context("spawn")
    begun, over, told = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=_attack_in_process, args=(number, server.doors, begun, over, told, seed))
    process.start()
    try:
        if not begun.wait(60):
            raise SystemExit(f"{ATTACKS[number].name}: the attacker did not begin")
        beside = peer.work(_for(seconds))
        after = server.anonymous_bytes()
    finally:
        over.set()
        try:
            reactions = told.get(timeout=120)
        except queue.Empty:
            reactions = Counter()
        process.join(30)
    if not ATTACKS[number].reactions & reactions.keys():
        raise SystemExit(f"{ATTACKS[number].name}: not the reactions expected, but {dict(reactions)}")
    return Outcome(alone, beside, before, after, reactions)


def _for(seconds: float) -> Callable[[], bool]:
    until = time.perf_counter() + seconds
    return lambda: time.perf_counter() < until


def _row(attack: Attack, outcomes: list[Outcome]) -> str:
    def ms(values: list[float]) -> str:
        return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"

    def of(share: float) -> str:
        return ms([percentile(one.beside, share) for one in outcomes])

    alone = ms([percentile(one.alone, 50) for one in outcomes])
    extra = [percentile(one.beside, 50) - percentile(one.alone, 50) for one in outcomes]
    grown = statistics.median((one.after - one.before) / (1 << 20) for one in outcomes)
    reactions: Counter[str] = sum((one.reactions for one in outcomes), Counter())
    rate = sum(reactions.values()) / len(outcomes)
    seen = ", ".join(f"{name} ({count / sum(reactions.values()):.0%})" for name, count in reactions.most_common(3))
    cells = (attack.name, f"{rate:,.0f}", seen, f"{grown:+.1f}", alone, of(50), of(95), of(100), ms(extra))
    return f"| {' | '.join(cells)} |"


_HEAD: Final = (
    "| Attack | acts | Reaction | memory, MiB | alone: median | beside: median | p95 | longest | delay |\n"
    "|---|--:|---|--:|--:|--:|--:|--:|--:|"
)


def main() -> None:
    """Measure, print, and write the table if wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a stretch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="attacks whose name has these words")
    parser.add_argument("--write", action="store_true", help="write it into docs/security/limits.md")
    args = parser.parse_args()
    chosen = [number for number, each in enumerate(ATTACKS) if args.only in each.name]
    found: dict[int, list[Outcome]] = {number: [] for number in chosen}
    loads = [os.getloadavg()[0]]
    folder = Path(tempfile.mkdtemp(prefix="attacks"))
    try:
        with AttackedServer(folder / "server") as server:
            for turn in range(args.rounds):
                for number in chosen:
                    found[number].append(measure(server, number, args.seconds, turn))
                    print(_row(ATTACKS[number], found[number][-1:]), flush=True)
                loads.append(os.getloadavg()[0])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = "\n".join(_row(ATTACKS[number], found[number]) for number in chosen)
    said = (
        f"Measured by `python -m bench.attacks --seconds {args.seconds:g} --rounds {args.rounds}`: medians of the "
        f"rounds, with their range; times in ms. Machine: {os.cpu_count()} cores, load {min(loads):.1f} to "
        f"{max(loads):.1f}, attackers included. The bound for the delay is {_BOUND_MS:g} ms.\n\n{_HEAD}\n{rows}"
    )
    print(said)
    if args.write:
        PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), BEGIN, END, f"\n\n{said}\n\n"), encoding="utf-8")


if __name__ == "__main__":
    main()
