"""Promise: a server notices by itself, before it signs, that what it acknowledged is no longer in the log on disk; and
it acknowledges nothing more than two minutes beyond its last signature.

Adversary: who writes the disk, beneath a running server, before a checkpoint covers what was stored. A real server in a
process of its own, real C-STOREs, and files that are changed with nothing but the rights of the file system.
"""

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from coffer.archive.commit.overdue import Overdue
from coffer.archive.events.rekeys import RekeyOrdered
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.server.config.load import load_config
from coffer.server.config.settings import Config
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.engine.opening import open_writer
from coffer.server.keyops import settlement_job
from coffer.server.main.demo import encoded, sample_study
from coffer.server.main.service import Server
from tests.archive.events.samples import sample
from tests.server.dimse.raw_peer import RawRequestor
from tests.server.filled import free_port, job_of, run, told
from tests.server.served import COFFER, serving

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
ANY = sample(RekeyOrdered)
SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700
SEGMENT = Path("data/segments/00000001.seg")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text(
        "archive = 'data'\n[storage]\nreserve_bytes = 0\n"
        f"[dimse]\nport = {free_port()}\nprocesses = 1\n[http]\nport = {free_port()}\n",
        encoding="utf-8",
    )
    run("init")
    return load_config(Path("coffer.toml"))


def stored(config: Config, number: int) -> int:
    """How the C-STORE of an object ends."""
    ds = sample_study()[0]
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"1.2.3.{number}"
    with RawRequestor(config.dimse.port, [Offer(1, CT, (EXPLICIT_LE,))]) as peer:
        peer.request(peer.context(CT), dimse.C_STORE, encoded(ds), AFFECTED_INSTANCE=ds.SOPInstanceUID)
        return peer.final().status


def readyz(config: Config) -> tuple[int, dict[str, list[str]]]:
    answer = httpx.get(f"http://127.0.0.1:{config.http.port}/readyz", timeout=10)
    return answer.status_code, answer.json()


def metric(config: Config, name: str) -> float:
    page = httpx.get(f"http://127.0.0.1:{config.http.port}/metrics", timeout=10).text
    (line,) = (row for row in page.splitlines() if row.startswith(name + " "))
    return float(line.split()[1])


@contextmanager
def ordered_to_sign() -> Iterator[None]:
    """Somebody waits for the server to sign while the block runs."""
    with Path("sign.log").open("w", encoding="utf-8") as out:
        waiting = subprocess.Popen([COFFER, "checkpoint", "sign"], stdout=out, stderr=out)
    try:
        yield
    finally:
        waiting.terminate()
        waiting.wait(30)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.05)


def signed_size() -> int:
    signed = read_checkpoint(ArchiveFolder.open(Path("data").absolute()))
    assert signed is not None
    return signed.size


def zeroed(since: int) -> None:
    """All groups of which no checkpoint knows."""
    with SEGMENT.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(since)
        file.write(bytes(size - since))


def altered(since: int) -> None:
    """One byte of a sealed body: the headers are as they were."""
    with SEGMENT.open("r+b") as file:
        file.seek(since + 5000)
        byte = file.read(1)
        file.seek(since + 5000)
        file.write(bytes([byte[0] ^ 1]))


def cut(since: int) -> None:
    with SEGMENT.open("r+b") as file:
        file.truncate(since)


def replaced(since: int) -> None:
    """Another file has the segment's name, with what a checkpoint covers: the server goes on writing to the old one."""
    Path("other").write_bytes(SEGMENT.read_bytes()[:since])
    Path("other").rename(SEGMENT)


def removed(_: int) -> None:
    SEGMENT.unlink()


@pytest.mark.parametrize("attack", [zeroed, altered, cut, replaced, removed])
def test_what_is_gone_from_the_log_stops_the_server_before_it_signs(
    config: Config, attack: Callable[[int], None]
) -> None:
    with serving():
        assert stored(config, 1) == SUCCESS
        run_beside("checkpoint", "sign")
        before, size = signed_size(), SEGMENT.stat().st_size
        assert stored(config, 2) == SUCCESS
        assert metric(config, "coffer_unsigned_seconds") >= 0
        attack(size)
        assert readyz(config)[0] == 200
        with ordered_to_sign():
            until(lambda: readyz(config)[0] == 503)
        (reason,) = readyz(config)[1]["reasons"]
        assert "nothing is stored: segment 1, offset" in reason
        assert "stored, and the log on disk is no longer what was written there" in reason
        assert stored(config, 3) == OUT_OF_RESOURCES
        assert signed_size() == before
        status = json.loads(run_beside("status", "--json"))
        assert reason.endswith(status["unsigned"]["cause"].removeprefix("nothing is stored: "))
        assert status["refused"]["cause"] == reason or attack in {removed, cut, replaced}  # status sees these by itself
        assert "have the senders send again what they stored since 20" in status["unsigned"]["remedy"]
        assert metric(config, "coffer_unsigned_seconds") > 0
    assert signed_size() == before
    assert list(Path("data/lost+found").glob(f"00000001-{size}-*")) or attack is removed
    (finding,) = told("scrub", "show", code=1)["findings"]  # type: ignore[misc]
    assert finding["kept"]
    assert finding["what"].startswith(("record", "records"))


def run_beside(*words: str) -> str:
    return subprocess.run([COFFER, *words], capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_finding_outlives_a_restart_and_what_is_sent_again_is_stored(config: Config) -> None:
    with serving():
        assert stored(config, 1) == SUCCESS
        run_beside("checkpoint", "sign")
        size = SEGMENT.stat().st_size
        assert stored(config, 2) == SUCCESS
        zeroed(size)
        with ordered_to_sign():
            until(lambda: readyz(config)[0] == 503)
    with serving():
        assert any("findings of the scrub wait" in each for each in readyz(config)[1]["degraded"])
        assert stored(config, 2) == SUCCESS
        run_beside("checkpoint", "sign")
    assert told("verify", "--level", "decrypt")["findings"] == []
    assert told("status")["objects"] == 2
    run("scrub", "acknowledge")
    assert told("status")["findings"] == 0


def test_what_a_command_stored_is_read_back_before_it_says_so(config: Config) -> None:
    with open_writer(config) as archive:
        archive.record_event(ANY)
        size = SEGMENT.stat().st_size
        zeroed(size - 200)
        with pytest.raises(IntegrityError, match="the log on disk is no longer what was written there"):
            archive.sign_checkpoint()
        with pytest.raises(UnavailableError, match="nothing is stored"):
            archive.record_event(ANY)


def folder_at_the_tile(tiles: Path, records: int) -> None:
    (tiles / "0" / "000.p" / str(records) / "in it").mkdir(parents=True)


def file_at_the_folder_of_tiles(tiles: Path, _: int) -> None:
    shutil.rmtree(tiles / "0" / "000.p")
    (tiles / "0" / "000.p").write_bytes(b"")


def link_at_a_level(tiles: Path, _: int) -> None:
    (tiles / "0").rename("level")
    (tiles / "0").symlink_to(Path("level").absolute())


@pytest.mark.parametrize("plant", [folder_at_the_tile, file_at_the_folder_of_tiles, link_at_a_level])
def test_what_stands_at_a_name_that_is_written_is_told_at_once_and_moved_away_as_told(
    config: Config, plant: Callable[[Path, int], None]
) -> None:
    with serving():
        assert stored(config, 1) == SUCCESS
        run_beside("checkpoint", "sign")
        signed = signed_size()
        plant(Path("data/tiles/tile"), signed + 1)
        assert stored(config, 2) == SUCCESS
        with ordered_to_sign():
            until(lambda: any(each.startswith("no checkpoint") for each in readyz(config)[1]["degraded"]))
        (concern,) = (each for each in readyz(config)[1]["degraded"] if each.startswith("no checkpoint was signed"))
        assert "stands where Coffer has to write" in concern
        told_by_status = json.loads(run_beside("status", "--json"))["unsigned"]
        assert told_by_status["cause"] in concern
        command = told_by_status["remedy"].partition(" and wait")[0]
        assert shlex.split(command)[0] == "mv"
        subprocess.run(command, shell=True, check=True)
        until(lambda: Path("data/checkpoints/latest").is_file() and signed_size() > signed)
        until(lambda: json.loads(run_beside("status", "--json"))["unsigned"] is None)
        assert stored(config, 3) == SUCCESS
    found = told("verify", "--level", "decrypt")
    assert found["findings"] == []


def test_who_orders_a_checkpoint_is_told_why_none_is_signed(config: Config) -> None:
    with serving():
        assert stored(config, 1) == SUCCESS
        run_beside("checkpoint", "sign")
        folder_at_the_tile(Path("data/tiles/tile"), signed_size() + 1)
        assert stored(config, 2) == SUCCESS
        with pytest.raises(subprocess.CalledProcessError) as refused:
            run_beside("checkpoint", "sign")
        assert refused.value.returncode == 6
        assert "the server cannot sign: " in refused.value.stderr
        assert "stands where Coffer has to write" in refused.value.stderr
        shutil.rmtree(Path("data/tiles/tile/0/000.p") / str(signed_size() + 1))
    assert told("verify", "--level", "decrypt")["findings"] == []


def test_nothing_is_acknowledged_beyond_the_bound_and_again_once_the_way_is_clear(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is shorter here, and nothing else is different."""
    assert settlement_job._CHECKPOINT_SECONDS + settlement_job._AGAIN_SECONDS < 120
    assert settlement_job._MOST_UNSIGNED_SECONDS == 120
    for name in ("_CHECKPOINT_SECONDS", "_AGAIN_SECONDS", "_MOST_UNSIGNED_SECONDS"):
        monkeypatch.setattr(settlement_job, name, 0.2)
    with Server(config) as server:
        assert stored(config, 1) == SUCCESS
        until(lambda: server.services.archive.log.unsigned_seconds() == 0)
        Path("data/tiles/tile").rename("tile")
        Path("data/tiles/tile").write_bytes(b"")
        assert stored(config, 2) == SUCCESS
        until(lambda: any("stands where Coffer" in each for each in server.reasons()))
        assert stored(config, 3) == OUT_OF_RESOURCES
        (reason,) = server.reasons()
        assert "records have waited" in reason
        assert f"{Path('data/tiles/tile').absolute()} stands where Coffer has to write" in reason
        Path("data/tiles/tile").unlink()
        until(lambda: not server.reasons())
        assert job_of(server, settlement_job.SettlementJob).concerns() == []
        assert stored(config, 3) == SUCCESS


def test_a_signer_that_hangs_or_is_gone_is_no_signer() -> None:
    now = [0.0]
    waits = Overdue(lambda: now[0])
    waits.appended()
    now[0] = 1000.0
    waits.require()  # a command signs when it is done
    waits.limit(120.0)
    with pytest.raises(UnavailableError, match=r"have waited 1000 s .* may wait 120 s: the signer does not come to an"):
        waits.require()
    waits.failed(IntegrityError("the history is no file", hint="move it away"))
    with pytest.raises(UnavailableError, match="the history is no file") as refused:
        waits.require()
    assert refused.value.hint() == "move it away"
    waits.signed(begun=950.0, is_all=False)
    assert waits.seconds() == 50.0
    waits.appended()
    assert waits.seconds() == 50.0
    waits.signed(begun=1000.0, is_all=True)
    assert waits.seconds() == 0.0
    waits.require()


def test_whoever_removes_the_lock_file_makes_no_second_writer(config: Config) -> None:
    """The command does its work beside the server, as ever; two writers would sign logs that contradict each other."""
    with serving():
        assert stored(config, 1) == SUCCESS
        Path("data/LOCK").unlink()
        assert run("put", "coffer.toml", code=7).stderr.startswith("error: the archive is being written by")
        run_beside("hold", "add", "--patient", "P-1", "--reason", "r")
        assert stored(config, 2) == SUCCESS
        run_beside("checkpoint", "sign")
        assert not [each for each in readyz(config)[1]["degraded"] if "continuation" in each]
    assert told("verify", "--level", "decrypt")["findings"] == []
    assert told("status")["objects"] == 2
    assert "P-1" in run("hold", "list").output
