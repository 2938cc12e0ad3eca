"""C-FIND at study level over one association, peers in turn: time to the first and last row, and rows per second."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench import kit
from bench.figures import percentile
from bench.scu import IMPLICIT_LE, STUDY_ROOT_FIND, Client

_LEVEL, _STUDY, _PATIENT, _NAME, _DATE = 0x00080052, 0x0020000D, 0x00100020, 0x00100010, 0x00080020
_ACCESSION, _MODALITIES = 0x00080050, 0x00080061
_RETURNED: Final = {_LEVEL: b"STUDY"} | dict.fromkeys((_STUDY, _PATIENT, _NAME, _DATE, 0x00080030, _ACCESSION), b"")
QUERIES: Final[dict[str, tuple[dict[int, bytes], int]]] = {  # keys, and repetitions per round
    "patient_id": ({_PATIENT: b"P00000023"}, 60),
    "accession": ({_ACCESSION: b"A001000077"}, 60),
    "study_uid": ({_STUDY: b"1.2.826.0.1.3680043.10.1338.1000055"}, 60),
    "date_range_day": ({_DATE: b"20180106-20180106"}, 20),
    "date_range_month": ({_DATE: b"20180301-20180331"}, 10),
    "name_prefix": ({_NAME: b"SMI*"}, 10),
    "name_infix": ({_NAME: b"*MIT*"}, 10),
    "modality_day": ({_MODALITIES: b"MR", _DATE: b"20180106-20180106"}, 10),
    "modality": ({_MODALITIES: b"SR"}, 3),
    "all": ({}, 1),
}
_LOADING: Final = 4


def load(peer: Any, corpus: Path, studies: int) -> dict[str, Any]:
    """Store the corpus over four associations; the row has the time it took."""
    folders = sorted(corpus.iterdir())
    per_folder = min(studies, 1000)

    def send(folder: Path) -> None:
        command = [sys.executable, str(kit.KIT / "fastscu.py"), peer.host, str(peer.port), peer.aet, str(folder)]
        subprocess.run(
            [*command, "--limit", str(per_folder)], input="go\n", text=True, check=True, stdout=subprocess.DEVNULL
        )

    started = time.perf_counter()
    with ThreadPoolExecutor(_LOADING) as pool:
        list(pool.map(send, folders[: -(-studies // 1000)]))
    return {
        "bench": "find-load", "peer": peer.name, "studies": studies,
        "wall_s": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def finding(data: Path, work: Path, studies: int, rounds: int, specs: list[str]) -> Iterator[dict[str, Any]]:
    """Load every peer, then query them in turn; a row for each peer, query and round."""
    with ExitStack() as stack:
        peers = [stack.enter_context(kit.module("peers").Peer(spec, str(work))) for spec in specs]
        for peer in peers:
            yield load(peer, data / "find", studies)
        for _ in range(rounds):
            for name, (keys, times) in QUERIES.items():
                for peer in peers:
                    yield {"bench": "find", "peer": peer.name, "query": name, **_ask(peer, keys, times)}


def _ask(peer: Any, keys: dict[int, bytes], times: int) -> dict[str, Any]:
    first, last, count = [], [], 0
    with Client(peer.port, [(STUDY_ROOT_FIND, IMPLICIT_LE)], called=peer.aet) as client:
        cpu = peer.cpu()
        for _ in range(times):
            count, one, all_of_it = client.timed_find(_RETURNED | keys)
            first.append(one)
            last.append(all_of_it)
        cpu = peer.cpu() - cpu
    p50 = statistics.median(last)
    return {
        "matches": count, "first_ms": round(1e3 * statistics.median(first), 3), "p50_ms": round(1e3 * p50, 3),
        "p99_ms": round(1e3 * percentile(last, 99), 3), "rows_s": round(count / p50),
        "server_cpu_ms": round(1e3 * cpu / times, 3),
    }  # fmt: skip
