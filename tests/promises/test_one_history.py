"""Promise: an archive has one history. It goes on from what was signed of it, or it stores nothing and says why.

Adversary: accident, and whoever swaps parts of the archive for those of a twin (a copy of it that went on by itself,
with the same keys) or of yesterday. Not: who forges records and removes the signatures over them.

Refused means: `put` ends with 13, a server answers 503 and A700, `recover show` ends with 1 and names the ways out, the
files stay as they are; and once the right part is back, all that was acknowledged is there.
"""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coffer.keys.errors import HistoryError
from coffer.server.access.principal import Principal
from coffer.server.cli import main
from coffer.server.keyops.rekey_order import carry_out, one_study, order
from coffer.server.services.find import Finder
from tests.peers.coffer_process import COFFER, CofferProcess
from tests.peers.dicom_client import store
from tests.peers.ward import FULL, objects
from tests.promises.kept import CALLER, LEVEL, STUDY, Kept

_PARTS = ("segments", "checkpoints", "tiles", "keyring", "index", "scrub", "lost+found", "spool")


@dataclass
class Twins:
    """`mine` and `twin` were one archive until `then`; each is signed, and has a tail since. The keys are the same."""

    mine: Kept
    twin: Kept
    then: Kept

    def swap(self, other: Kept, *parts: str) -> None:
        for part in parts:
            shutil.rmtree(self.mine.archive / part)
            shutil.copytree(other.archive / part, self.mine.archive / part)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    base = tmp_path_factory.mktemp("twins")
    mine = Kept.create(base / "mine")
    with mine.opened() as engine:
        mine.put(engine, 1, *range(1, 8))
    twin, then = mine.copy(base / "twin"), mine.copy(base / "then")
    for kept, study in ((mine, 2), (twin, 3)):
        with kept.opened() as engine:
            kept.put(engine, study, *range(1, 16))
            engine.sign_checkpoint()
            kept.put(engine, study, 20)
            killed = kept.copy(base / f"killed {study}")
        shutil.rmtree(kept.base)
        killed.base.rename(kept.base)
        shutil.copy(killed.config.integrity.mark, kept.config.integrity.mark)
    assert len(list((mine.archive / "segments").iterdir())) >= 6
    return Twins(mine, twin, then)


@pytest.fixture
def twins(source: Twins, tmp_path: Path) -> Twins:
    return Twins(*(kept.copy(tmp_path / kept.base.name) for kept in (source.mine, source.twin, source.then)))


def _command(kept: Kept, *args: str) -> Result:
    config = kept.base / "coffer.toml"
    config.write_text(
        f'archive = "{kept.archive}"\n[keys]\nkey_file = "{kept.config.keys.key_file}"\n[storage]\nreserve_bytes = 0\n'
        f'[integrity]\nmark = "{kept.config.integrity.mark}"\n'
    )
    return CliRunner().invoke(main, ["--config", str(config), *args])


def _files(kept: Kept) -> dict[str, bytes]:
    """Everything but locks and what a refused opening may write: the index of what is readable."""
    wanted = (kept.archive / part for part in _PARTS if part != "index")
    paths = (path for folder in wanted for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(kept.archive)): p.read_bytes() for p in paths if "lock" not in p.name.lower()}


def _require_refused(kept: Kept, match: str = "") -> None:
    before = _files(kept)
    file = kept.base / "new.dcm"
    file.write_bytes(b"x")
    done = _command(kept, "put", str(file))
    assert done.exit_code == 13, done.output
    assert match in done.stderr
    shown = _command(kept, "recover", "show")
    assert shown.exit_code == 1, shown.output
    assert "remedies, with the server stopped" in shown.output
    assert "they agree" not in shown.output
    with kept.opened(may_refuse=True) as engine:
        assert kept.put(engine, 9, 1) == [0xA700]
        assert isinstance(engine.log.refusal, HistoryError)
    assert _files(kept) == before


def _segments(twins: Twins) -> None:
    twins.swap(twins.twin, "segments")


def _log(twins: Twins) -> None:
    twins.swap(twins.twin, "segments", "checkpoints", "tiles")


def _log_and_index(twins: Twins) -> None:
    twins.swap(twins.twin, "segments", "checkpoints", "tiles", "index")


def _checkpoints(twins: Twins) -> None:
    twins.swap(twins.twin, "checkpoints", "tiles")


def _older_segments(twins: Twins) -> None:
    twins.swap(twins.then, "segments")


def _older_log(twins: Twins) -> None:
    twins.swap(twins.then, "segments", "checkpoints", "tiles")


def _older_keyring(twins: Twins) -> None:
    twins.swap(twins.then, "keyring")


def _twins_keyring(twins: Twins) -> None:
    twins.swap(twins.twin, "keyring")


def _no_last_segment(twins: Twins) -> None:
    max((twins.mine.archive / "segments").iterdir()).unlink()
    max((twins.mine.archive / "segments").iterdir()).unlink()


_SWAPS = [
    _segments, _log, _log_and_index, _checkpoints, _older_segments, _older_log, _older_keyring, _twins_keyring,
    _no_last_segment,
]  # fmt: skip


@pytest.mark.parametrize("swap", _SWAPS)
def test_what_is_of_another_history_is_refused_and_the_right_part_back_is_all_there(
    twins: Twins, tmp_path: Path, swap: Callable[[Twins], None]
) -> None:
    right = twins.mine.copy(tmp_path / "right")
    swap(twins)
    _require_refused(twins.mine)
    twins.swap(right, "segments", "checkpoints", "tiles", "keyring")
    twins.mine.require_all(write=True)
    with twins.mine.opened() as engine:
        assert twins.mine.put(engine, 9, 1) == [0]


@pytest.mark.parametrize("swap", [_log, _older_segments, _older_log, _no_last_segment])
def test_what_is_found_in_a_refused_log_is_what_it_holds(twins: Twins, swap: Callable[[Twins], None]) -> None:
    """No answer comes from the index of another state of the log, neither from the server nor from a command."""
    swap(twins)

    def found(*, write: bool) -> set[str]:
        with twins.mine.opened(write=write, may_refuse=True) as engine:
            assert engine.shortfall is None
            assert engine.index.applied_seq == max(header.seq for _, header in engine.reader.records())
            rows = Finder(engine).rows({LEVEL: ("STUDY",), STUDY: ()}, model="study", caller=CALLER)
            return {str(row[STUDY][0]) for row in rows}

    studies = found(write=True)
    assert "1.2.1" in studies
    assert swap is _no_last_segment or "1.2.2" not in studies
    assert found(write=False) == studies


def test_each_single_segment_of_a_twin_is_refused(twins: Twins) -> None:
    mine, twin = twins.mine.archive / "segments", twins.twin.archive / "segments"
    for path in sorted(mine.iterdir()):
        whole = path.read_bytes()
        other = (twin / path.name).read_bytes()
        if other == whole:
            continue
        path.write_bytes(other)
        _require_refused(twins.mine)
        path.write_bytes(whole)
    twins.mine.require_all(write=True)


@pytest.mark.parametrize("years", [-30, 30])
def test_no_clock_makes_another_history_the_right_one(
    twins: Twins, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    real, offset = time.time_ns, years * 365 * 86_400 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: real() + offset)
    _segments(twins)
    _require_refused(twins.mine)


def test_a_rekey_a_rotation_and_a_rebuild_go_on_in_the_one_history(twins: Twins, tmp_path: Path) -> None:
    mine = twins.mine
    with mine.opened() as engine:
        carry_out(
            engine, order(engine, one_study(engine, "1.2.1"), "test", Principal.person("Jane", "jane")), lambda *_: None
        )
    assert _command(mine, "keys", "rotate-signing", "--reason", "test").exit_code == 0
    assert _command(mine, "index", "rebuild").exit_code == 0
    mine.require_all(write=True)
    assert _command(mine, "recover", "show").exit_code == 0
    right = mine.copy(tmp_path / "right")
    _segments(twins)
    _require_refused(mine)
    twins.swap(right, "segments")
    mine.require_all(write=True)


def test_whoever_accepts_it_is_written_down_and_an_older_keyring_can_be_accepted_too(twins: Twins) -> None:
    """The newest keyring is lost for good: with a signed word of it, the archive goes on."""
    _older_keyring(twins)
    shown = json.loads(_command(twins.mine, "recover", "show", "--json").stdout)
    done = _command(twins.mine, "recover", "accept-loss", "--to", str(shown["records"]))
    assert done.exit_code == 0, done.output
    with twins.mine.opened() as engine:
        assert {uid.rsplit(".", 2)[0] for uid in twins.mine.missing(engine)} == {"1.2.2"}
        assert any("stored objects are not found" in told for told in engine.concerns())
        assert twins.mine.put(engine, 9, 1) == [0]


@pytest.fixture
def served(twins: Twins) -> Iterator[CofferProcess]:
    """A server on what a twin's segments made of the archive."""
    _segments(twins)
    coffer = CofferProcess(twins.mine.base)
    coffer.write_config("[storage]\nreserve_bytes = 0\n")
    coffer.config.write_text(coffer.config.read_text().replace(str(coffer.key_file), str(twins.mine.base / "key")))
    assert COFFER.exists()
    yield coffer
    coffer.kill()


def test_a_server_says_so_on_readyz_and_to_the_sender(served: CofferProcess) -> None:
    command = [str(COFFER), "--config", str(served.config), "serve"]
    with served.log.open("ab") as log:
        served.process = subprocess.Popen(command, cwd=served.base, stdout=log, stderr=log, env=served.environment())
    why = ""
    while "nothing is stored" not in why:
        assert served.process.poll() is None, served.log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{served.http}/readyz", timeout=2).close()
        except urllib.error.HTTPError as error:  # 503
            why = error.read().decode()
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.05)
    assert "not those that were signed" in why
    replies = store(served.port, objects(5))
    assert {reply.status for reply in replies} == {FULL}
    assert all("nothing is stored" in reply.comment for reply in replies)
