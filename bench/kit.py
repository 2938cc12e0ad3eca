"""The measuring kit that starts the peers. It is outside the repository, in `bench` of the folder COFFER_SHARED.

By default that folder is `../shared`. The peers are the Debian packages in tests/peers.txt.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SHARED: Final = Path(os.environ.get("COFFER_SHARED", ROOT.parent / "shared"))
KIT: Final = SHARED / "bench"
REAL: Final = {
    "real-ct": SHARED / "data/real/neurolabusc-dcm_qa_ct/ct-phantom-140",
    "real-mr": SHARED / "data/real/neurolabusc-dcm_qa_deident/mr-t1-196",
}
ORTHANC, STORESCP, DCMQRSCP, COFFER = "orthanc+nd", "storescp-pdu128k+nd", "dcmqrscp+nd", "coffer"
# DCMTK by absolute path: pynetdicom installs scripts of the same names.
PROGRAMS: Final = {"Orthanc": "Orthanc", "DCMTK storescp": "/usr/bin/storescp", "DCMTK dcmqrscp": "/usr/bin/dcmqrscp",
                   "DCMTK getscu": "/usr/bin/getscu"}  # fmt: skip


def missing() -> list[str]:
    """Return what is missing for the comparison with the peers."""
    absent = [name for name, program in PROGRAMS.items() if shutil.which(program) is None]
    return absent if (KIT / "store_bench.py").is_file() else [*absent, f"the measuring kit at {KIT} (COFFER_SHARED)"]


def module(name: str) -> Any:
    """Return a module of the kit; it has no types."""
    if str(KIT) not in sys.path:
        sys.path.append(str(KIT))
    return importlib.import_module(name)


def script(name: str, *args: str) -> Iterator[dict[str, Any]]:
    """Run a script of the kit; yield each JSON line as soon as it is printed."""
    with subprocess.Popen(
        [sys.executable, str(KIT / name), *args], stdout=subprocess.PIPE, text=True, cwd=KIT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}")


def coffer_spec(command: str = "") -> str:
    """Return the kit's name for this repository's server, fresh each time, or for another command."""
    ours = f"sh {ROOT / 'bench/coffer_peer.sh'} {{dir}} {{port}} {{http}} {{aet}} {{movehost}} {{moveport}}"
    return f"{COFFER}=cmd:{command or ours}"


def make_data(folder: Path, images: int, reports: int, studies: int) -> None:
    """Generate the corpora; existing ones are kept."""
    links = [a for name, source in REAL.items() for a in ("--link", f"{name}={source}") if source.is_dir()]
    wanted = ["--ct", str(images), "--tiny", str(reports), "--studies", str(studies)]
    list(script("make_data.py", "--out", str(folder), "--only", "ct,tiny,mf,find", *wanted, *links))
