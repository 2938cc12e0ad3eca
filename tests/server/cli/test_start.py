"""What a process does not import before it needs it: every command, the server and its workers pay for each import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from coffer.server.cli import main
from tests.server.filled import run, study_files

COMMAND = "from coffer.server.cli import main\ntry: main()\nfinally: print('\\n', *sys.modules)"
DICOM = {"pydicom", "pynetdicom"}
NETWORK = {"asyncio", "h11", "http.server", "requests", "starlette", "urllib3", "uvicorn"}
FEW = DICOM | NETWORK | {"cryptography", "lmdb", "msgspec", "numpy", "prometheus_client", "rich", "zstandard"}
# An association request, and an object in Implicit VR with elements that the index does not know.
RECEIVING = """
from coffer.index.dicom.headers import scan
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import Offer
offer = Offer(1, "1.2.840.10008.5.1.4.1.1.2", ("1.2.840.10008.1.2",))
asked = negotiation.parse_request(negotiation.request("A", "B", [offer], 0)[6:])
assert negotiation.accept(asked, accept_unknown=False, max_pdu=0)[1]
data = b"\\x10\\0\\x10\\0\\x04\\0\\0\\0A^B " b"\\x18\\0\\x60\\0\\x04\\0\\0\\0" b"120 "
assert scan(lambda start, stop: data[start:stop], len(data), "1.2.840.10008.1.2").problem is None
"""


def loaded(code: str, *arguments: str, cwd: Path, fails: bool = False) -> set[str]:
    """The modules of a process that ran `code`."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("COFFER_")}
    command = [sys.executable, "-c", f"import sys\n{code}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=keep)
    assert bool(done.returncode) == fails, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--version"], ["status", "--help"], ["keys", "--help"]], ids=" ".join)
def test_a_command_that_only_tells_of_itself(words: list[str], tmp_path: Path) -> None:
    allowed = {"--version": set(), "status": {"msgspec"}, "keys": {"msgspec", "cryptography"}}[words[0]]
    assert loaded(COMMAND, *words, cwd=tmp_path) & FEW <= allowed


def test_a_command_is_imported_without_the_others(tmp_path: Path) -> None:
    modules = loaded(COMMAND, "status", "--help", cwd=tmp_path)
    assert "coffer.server.cli.status" in modules
    assert not modules & {"coffer.server.cli.put", "coffer.server.cli.keys.group"}


@pytest.mark.parametrize("words", [["status"], ["find", "PatientName=A*", "--json"]], ids=" ".join)
def test_a_command_that_reads_an_archive(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for before in (["init", "--yes-same-disk"], ["index", "rebuild"]):
        made = CliRunner().invoke(main, before, env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""})
        assert made.exit_code == 0, made.output
    modules = loaded(COMMAND, *words, cwd=tmp_path)
    assert "coffer.index.index" in modules
    assert not modules & (DICOM | NETWORK | {"numpy", "prometheus_client", "rich"})


def test_put_without_a_dicomdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("init")
    study_files(Path("files"))
    modules = loaded(COMMAND, "put", "files", cwd=tmp_path)
    assert "coffer.server.services.media" in modules
    assert not modules & (DICOM | {"asyncio", "requests", "starlette", "urllib3", "uvicorn", "rich"})


def test_a_worker_until_its_first_pixels(tmp_path: Path) -> None:
    code = f"import coffer.server.workers.worker\n{RECEIVING}\nprint(*sys.modules)"
    modules = loaded(code, cwd=tmp_path)
    assert "coffer.server.dimse.acceptor" in modules
    assert not modules & (DICOM | NETWORK | {"numpy", "prometheus_client", "rich"})


def test_the_server(tmp_path: Path) -> None:
    modules = loaded("import coffer.server.main.service\nprint(*sys.modules)", cwd=tmp_path)
    assert not modules & (DICOM | {"requests", "rich", "urllib3"})
