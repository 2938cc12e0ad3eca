"""C-MOVE and C-GET of one whole study, peers in turn. Both receivers discard the objects: the C-MOVE destination is
storescp --ignore, the C-GET client getscu --ignore."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import kit
from bench.served import free_port


def retrieving(data: Path, work: Path, corpus: str, runs: int, specs: list[str]) -> Iterator[dict[str, Any]]:
    """Load every peer once, then move and get the study from each in turn; a row for each peer, service and run."""
    peers, raw, port = kit.module("peers"), kit.module("rawdicom"), free_port()
    env = os.environ | {"TCP_NODELAY": "1"}
    folder = data / corpus
    files = sorted(folder.iterdir())
    size = sum(path.stat().st_size for path in files)
    study = _study_of(files[0])
    destination = subprocess.Popen(
        ["/usr/bin/storescp", "-q", "--fork", "--ignore", "-pdu", "131072", "-aet", peers.MOVE_AET, str(port)], env=env
    )
    with ExitStack() as stack:
        stack.callback(destination.wait)
        stack.callback(destination.terminate)
        running = [stack.enter_context(peers.Peer(spec, str(work), move=("127.0.0.1", port))) for spec in specs]
        for peer in running:
            command = [sys.executable, str(kit.KIT / "fastscu.py"), peer.host, str(peer.port), peer.aet, str(folder)]
            subprocess.run(command, input="go\n", text=True, check=True, stdout=subprocess.DEVNULL)
        time.sleep(1)
        for _ in range(runs):
            for service in ("move", "get"):
                for peer in running:
                    yield {
                        "bench": service, "peer": peer.name, "corpus": corpus,
                        **_retrieve(peer, service, study, len(files), size, raw, peers, env),
                    }  # fmt: skip


def _retrieve(
    peer: Any, service: str, study: str, count: int, size: int, raw: Any, peers: Any, env: dict[str, str]
) -> dict[str, Any]:
    sampler = peers.RssSampler(peer.pid)
    sampler.start()
    cpu, started = peer.cpu(), time.perf_counter()
    if service == "move":
        assoc = raw.Assoc(peer.host, peer.port, peer.aet, [(raw.MOVE_STUDY, raw.ILE)], timeout=300)
        keys = raw.identifier(QueryRetrieveLevel="STUDY", StudyInstanceUID=study)
        completed, failed = assoc.move(keys, peers.MOVE_AET)
        assoc.release()
    else:
        keys = ["-k", "0008,0052=STUDY", "-k", f"0020,000d={study}"]
        command = ["/usr/bin/getscu", "-v", "-S", "--ignore", "-pdu", "131072", "-aec", peer.aet, *keys]
        done = subprocess.run(
            [*command, peer.host, str(peer.port)], env=env, capture_output=True, text=True, check=True
        )
        completed = (done.stdout + done.stderr).count("Received C-STORE Request")
        failed = count - completed
    wall = time.perf_counter() - started
    return {
        "n": completed, "failed": failed, "wall_s": round(wall, 3), "inst_s": round(completed / wall, 1),
        "mb_s": round(size / wall / 1e6, 1), "server_cpu_ms": round(1e3 * (peer.cpu() - cpu) / max(completed, 1), 3),
        "rss_peak_mb": round(sampler.stop() / 1e6, 1),
    }  # fmt: skip


def _study_of(path: Path) -> str:
    """Return a file's Study Instance UID, read by the product's own reader."""
    from coffer.index.dicom.headers import scan
    from coffer.server.services.part10 import read_part10

    with path.open("rb") as file:
        found = read_part10(file)
        assert found is not None, path
        file.seek(found.start)
        data = file.read()
    header = scan(lambda start, stop: data[start:stop], len(data), found.transfer_syntax)
    return header.text(0x0020000D)
