"""A real archive of one small study, made by the commands that an administrator uses."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import TypeVar

from click.testing import CliRunner, Result
from pydicom.dataset import Dataset

from coffer.server.cli import main
from coffer.server.dimse.protocol.status import SUCCESS, status_of
from coffer.server.main.demo import encoded, sample_study
from coffer.server.main.service import Server
from coffer.server.services.api import StoreOutcome
from coffer.server.services.part10 import Part10, header_bytes

J = TypeVar("J")


def job_of(server: Server, kind: type[J]) -> J:
    """The job of this kind that a server runs."""
    return next(each.job for each in server._jobs._running if isinstance(each.job, kind))


def run(*args: str, code: int | None = 0) -> Result:
    """One command in this process; its exit code must be `code` (None: any)."""
    if "init" in args and "tls" not in args:
        args = (*args, "--yes-same-disk")  # the temporary folder is on one disk
    result = CliRunner().invoke(main, args, env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""})
    assert code is None or result.exit_code == code, result.output
    return result


def copy_archive(source: str | Path, target: str | Path) -> None:
    """Copy an archive folder with its mark of the same moment; copied back, the archive has that mark again."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    archive_id, then = json.loads(Path(target, "archive.json").read_text())["archive_id"], Path(f"{source}.mark")
    mark = Path(os.environ["XDG_STATE_HOME"], "coffer", f"{archive_id}.mark")
    shutil.copy(*((then, mark) if then.exists() else (mark, f"{target}.mark")))


def told(*args: str, code: int = 0) -> dict[str, object]:
    """What the command printed with --json."""
    value = json.loads(run(*args, "--json", code=code).stdout)
    assert isinstance(value, dict)
    return value


_GIVEN: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody listens on, at any address, and that this process was not given before."""
    while True:
        with socket.socket() as sock:
            sock.bind(("", 0))  # a peer may connect from any address
            port = int(sock.getsockname()[1])
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port


def part10(ds: Dataset) -> bytes:
    """The data set as a file."""
    uids = str(ds.SOPClassUID), str(ds.SOPInstanceUID), "1.2.840.10008.1.2.1"
    return header_bytes(Part10(*uids, preamble=b"", file_meta=b"", start=0), "TESTER") + encoded(ds)


def study_files(folder: Path) -> list[Path]:
    """The sample study as files."""
    folder.mkdir()
    paths = []
    for number, ds in enumerate(sample_study()):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(part10(ds))
    return paths


def status(outcome: StoreOutcome) -> int:
    """The DIMSE status that a sender of the object would get."""
    return SUCCESS if outcome.error is None else status_of(outcome.error)[0]


def flip(path: Path, offset: int, mask: int = 0x10) -> None:
    """XOR a byte of a file; a negative offset counts from its end."""
    with path.open("r+b") as file:
        at = file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ mask]))
