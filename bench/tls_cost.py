"""What TLS costs: CPU of the whole server per object of 525 KB, stored and moved with TLS and without, in turn.

    python -m bench.tls_cost [--objects 60] [--rounds 3]

The programs of DCMTK send and receive; their CPU does not count. Bound (ADR 37): 0.45 ms more in each direction. The
process that ends TLS is counted on its own, too: on a busy machine that varies far less than a difference of two
servers that do everything else as well. Beside it: what receiving with TLS adds to `storescp` and to Orthanc.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.uid import generate_uid

from bench.served import AE_TITLE, Served, cpu_seconds, cpu_seconds_of, free_port, wait_for_port
from coffer.server.main.demo import encoded, sample_study
from coffer.server.services.part10 import Part10, header_bytes
from coffer.server.tls.authority import Authority, write_pem

_SIZE: Final = 512
_TLS: Final = "coffer.server.tls"
_EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True)
class _Study:
    """A study of large images in files."""

    uid: str
    files: list[Path]


def _study(folder: Path, objects: int, rng: np.random.Generator) -> _Study:
    folder.mkdir()
    uid, series, files = generate_uid(), generate_uid(), []
    image = sample_study()[0]
    image.Rows = image.Columns = _SIZE
    image.StudyInstanceUID, image.SeriesInstanceUID = uid, series
    for number in range(objects):
        image.SOPInstanceUID = generate_uid()
        image.PixelData = rng.integers(900, 1100, _SIZE * _SIZE).astype("<u2").tobytes()
        head = Part10(str(image.SOPClassUID), str(image.SOPInstanceUID), _EXPLICIT_LE, b"", b"", 0)
        files.append(folder / f"{number}.dcm")
        files[-1].write_bytes(header_bytes(head, "BENCH") + encoded(image))
    return _Study(str(uid), files)


class _Site:
    """A server with a port of each kind, and a destination of each kind."""

    def __init__(self, folder: Path) -> None:
        self.folder, authority = folder, Authority("Bench")
        write_pem(folder / "ca.pem", authority.itself.certificate_pem, secret=False)
        for name in ("coffer", "peer"):
            issued = authority.issue(name, ["localhost", "127.0.0.1"])
            write_pem(folder / f"{name}.pem", issued.certificate_pem, secret=False)
            write_pem(folder / f"{name}.key.pem", issued.key_pem, secret=True)
        self.identity = ["+tls", f"{folder}/peer.key.pem", f"{folder}/peer.pem", "+cf", f"{folder}/ca.pem"]
        self.tls_port, self.ports = free_port(), {False: free_port(), True: free_port()}
        self.server = _TlsServed(folder, self)

    def options(self, *, tls: bool) -> list[str]:
        """What DCMTK's programs need to know of TLS."""
        return self.identity if tls else []

    @contextmanager
    def destinations(self) -> Iterator[None]:
        """Receivers that keep nothing."""
        running = [
            subprocess.Popen(
                ["/usr/bin/storescp", "-q", "--ignore", "-pdu", "131072", *self.options(tls=tls), str(port)]
            )
            for tls, port in self.ports.items()
        ]
        try:
            yield
        finally:
            for each in running:
                each.kill()
                each.wait()

    def store(self, study: _Study, *, tls: bool) -> tuple[float, float]:
        """Seconds of the server's CPU for storing a study, and of the process that ends TLS."""
        return self._measured(self.sending(study, self.tls_port if tls else self.server.port, tls=tls))

    def sending(self, study: _Study, port: int, *, tls: bool) -> list[str]:
        """The command that sends a study to a port of this machine."""
        command = ["/usr/bin/storescu", "-pdu", "131072", "-aec", AE_TITLE, *self.options(tls=tls), "localhost"]
        return [*command, str(port), *map(str, study.files)]

    def move(self, study: _Study, *, tls: bool) -> tuple[float, float]:
        """As `store`, for sending a study."""
        keys = ["-k", "0008,0052=STUDY", "-k", f"0020,000d={study.uid}"]
        to = "TLS" if tls else "PLAIN"
        command = ["/usr/bin/movescu", "-S", "-aec", AE_TITLE, "-aem", to, *keys, "localhost", str(self.server.port)]
        return self._measured(command)

    def _measured(self, command: list[str]) -> tuple[float, float]:
        pid = self.server.pid
        before = cpu_seconds(pid), cpu_seconds_of(pid, _TLS)
        _run(command)
        return cpu_seconds(pid) - before[0], cpu_seconds_of(pid, _TLS) - before[1]

    @contextmanager
    def receiver(self, folder: Path, *, tls: bool, orthanc: bool) -> Iterator[tuple[int, int]]:
        """The process id and the port of another program that receives: Orthanc or `storescp`, with TLS or without."""
        port = free_port()
        command = ["/usr/bin/storescp", "-q", "--ignore", "-pdu", "131072", *self.options(tls=tls), str(port)]
        if orthanc:
            command = ["/usr/sbin/Orthanc", str(self._orthanc(folder, port, tls=tls))]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port)
            yield running.pid, port
        finally:
            running.kill()
            running.wait()

    def _orthanc(self, folder: Path, port: int, *, tls: bool) -> Path:
        folder.mkdir()
        path = folder / "orthanc.json"
        settings: dict[str, object] = {
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpServerEnabled": False,
            "DicomPort": port, "DicomAet": AE_TITLE, "DicomTlsEnabled": tls, "DicomAlwaysAllowStore": True,
        }  # fmt: skip
        if tls:
            files = {"Certificate": "peer.pem", "PrivateKey": "peer.key.pem", "TrustedCertificates": "ca.pem"}
            settings |= {f"DicomTls{name}": str(self.folder / file) for name, file in files.items()}
        path.write_text(json.dumps(settings), encoding="utf-8")
        return path


class _TlsServed(Served):
    """A server that speaks TLS as well."""

    def __init__(self, folder: Path, site: _Site) -> None:
        super().__init__(folder)
        self._site = site

    def _configure(self) -> Path:
        path, site = super()._configure(), self._site
        text = path.read_text(encoding="utf-8").replace("[dimse]\n", f"[dimse]\ntls_port = {site.tls_port}\n")
        files = "".join(f'{key} = "{self.folder}/{name}"\n' for key, name in _FILES.items())
        text += f"[tls]\n{files}"
        for tls, port in site.ports.items():
            name, on = ("TLS", "true") if tls else ("PLAIN", "false")
            text += f'[[peers]]\nae_title = "{name}"\nhost = "localhost"\nport = {port}\ntls = {on}\n'
        path.write_text(text, encoding="utf-8")
        return path


_FILES: Final = {"certificate_file": "coffer.pem", "key_file": "coffer.key.pem", "ca_file": "ca.pem"}


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    time.sleep(0.2)  # what is done after the last answer


def _others(site: _Site, study: _Study, folder: Path) -> Iterator[tuple[str, bool, float]]:
    """What receiving a study costs other programs: name, with TLS or without, seconds of CPU."""
    for name in ("storescp", "Orthanc"):
        for tls in (False, True):
            with site.receiver(folder / f"{name}-{tls}", tls=tls, orthanc=name == "Orthanc") as (pid, port):
                before = cpu_seconds(pid)
                _run(site.sending(study, port, tls=tls))
                yield name, tls, cpu_seconds(pid) - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    spent: dict[tuple[str, bool], list[float]] = defaultdict(list)
    ending: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        site = _Site(folder)
        with site.destinations(), site.server:
            site.store(_study(folder / "warm", 5, rng), tls=True)
            for number in range(given.rounds):
                for tls in (False, True):
                    study = _study(folder / f"{number}-{tls}", given.objects, rng)
                    for way, measure in (("in", site.store), ("out", site.move)):
                        all_of_it, of_tls = measure(study, tls=tls)
                        spent[way, tls].append(all_of_it)
                        if tls:
                            ending[way].append(of_tls)
                other = folder / f"{number}-others"
                other.mkdir()
                for name, tls, seconds in _others(site, study, other):
                    spent[name, tls].append(seconds)
    for way in ("in", "out", "storescp", "Orthanc"):
        plain, with_tls = (statistics.median(spent[way, tls]) / given.objects * 1e3 for tls in (False, True))
        told = f"{way:8} plain {plain:.2f} ms  TLS {with_tls:.2f} ms  more {with_tls - plain:.2f} ms"
        if way in ending:
            best, median = (each(ending[way]) / given.objects * 1e3 for each in (min, statistics.median))
            told += f"  process that ends TLS: median {median:.2f} ms, best {best:.2f} ms"
        print(told)


if __name__ == "__main__":
    main()
