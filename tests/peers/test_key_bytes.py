"""The byte search for keys: whatever the server, its workers and the commands do and whatever goes wrong in them, no
form of any key stands in what they print, log, answer or leave on disk."""

import base64
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from coffer.keys.crypto import derive
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, KeyFileProvider, _read, generate_keyfile
from coffer.keys.shares.text import parse
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.main.demo import encoded, sample_study
from tests.conftest import absent
from tests.peers.coffer_process import COFFER, CofferProcess
from tests.server.filled import flip, study_files

CT = "1.2.840.10008.5.1.4.1.1.2"
PASSPHRASE = "correct horse battery staple 4711"
WRONG_PASSPHRASE = "incorrect horse battery staple 0815"
# In each process of the product: the method named in RAISE_IN does its work, then raises with all it has.
FAULTS = """
import importlib.abc, importlib.machinery, os, subprocess, sys
module, _, rest = os.environ.get("RAISE_IN", "").partition(":")
owner, _, name = rest.partition(".")

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname != module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        execute = spec.loader.exec_module
        def exec_module(made):
            execute(made)
            real = getattr(getattr(made, owner), name)
            def raising(self, *args, **more):
                kept = real(self, *args, **more)
                raise RuntimeError(f"forced, with {kept!r}, {args!r}, {vars(self)!r}")
            setattr(getattr(made, owner), name, raising)
        spec.loader.exec_module = exec_module
        return spec

class NotIsolated(subprocess.Popen):  # what the product starts with -I would not see this file
    def __init__(self, args, **more):
        super().__init__(["-P" if word == "-I" else word for word in args], **more)

if module:
    subprocess.Popen = NotIsolated
    os.environ["COFFER_DEBUG"] = "1"
    sys.meta_path.insert(0, Finder())
"""


def forms(key: bytes) -> Iterator[bytes]:
    """How a key might be written: raw, hexadecimal, base64 at each alignment, and as Python shows bytes."""
    yield key
    yield key.hex().encode()
    yield key.hex().upper().encode()
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + key)
        inner = whole[4 if shift else 0 : -4]  # what does not depend on its neighbours
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))
    yield repr(key)[2:-1].encode()
    yield repr(list(key))[1:-1].encode()


def provider_of(coffer: CofferProcess) -> KeyFileProvider:
    return KeyFileProvider(coffer.key_file, lambda: Secret(PASSPHRASE.encode()))


def keys_of(coffer: CofferProcess) -> dict[str, bytes]:
    """Every key there is now, by its name."""
    provider = provider_of(coffer)
    found = {f"key file {epoch}": secret.reveal() for epoch, secret in _read(coffer.key_file).slots}
    ring = Keyring.open(coffer.archive / "keyring", provider, readonly=True)
    try:
        found[f"KEK {ring.epoch}"] = ring._epochs.kek(ring.epoch)[1].reveal()
        found["archive root"] = ring._root.reveal()
        labels = {name: label for name, label in vars(derive).items() if name.isupper() and isinstance(label, bytes)}
        found |= {name: ring.archive_key(label).reveal() for name, label in labels.items()}
        for key_id in ring.study_key_ids():
            key = ring.study(key_id)
            found |= {f"{key_id.hex()} {name}": getattr(key, name).reveal() for name in ("dek", "blob", "cid", "row")}
    finally:
        ring.close()
    assert provider._stretched is not None
    stretched = provider._stretched[2].reveal()
    return {**found, "stretched": stretched, "passphrase": PASSPHRASE.encode(), "wrong": WRONG_PASSPHRASE.encode()}


def hits(places: Iterable[tuple[str, bytes]], needles: dict[str, bytes]) -> set[tuple[str, str]]:
    """Which key is found where."""
    written = {form: name for name, key in needles.items() for form in forms(key)}
    return {(place, name) for place, content in places for form, name in written.items() if form in content}


def files(folder: Path, *, but: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder but those that are meant to hold secrets, with its name as content too."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(path.is_relative_to(one) for one in but):
            yield str(path.relative_to(folder)), str(path).encode() + b"\n" + path.read_bytes()


def page(coffer: CofferProcess, name: str) -> tuple[str, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{coffer.http}/{name}", timeout=10) as answer:
            return name, bytes(answer.read())
    except urllib.error.HTTPError as error:
        return name, error.read()


def store(coffer: CofferProcess, number: int) -> int:
    """Send an object; the status that was answered."""
    ds = sample_study()[number]
    with Requestor("127.0.0.1", coffer.port, "TESTER", "COFFER", [Offer(1, CT, (EXPLICIT_LE,))], 10.0) as peer:
        return peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)])


@pytest.fixture
def coffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CofferProcess]:
    """An archive whose key file needs a passphrase, not served yet, in whose processes a fault can be asked for."""
    if not COFFER.exists():
        absent(f"{COFFER} is not installed: make test installs it")
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "faults"))
    (tmp_path / "phrase").write_text(PASSPHRASE)
    (tmp_path / "phrase").chmod(0o600)
    (tmp_path / "coffer").mkdir()
    made = CofferProcess(tmp_path / "coffer")
    more = f'passphrase_file = "{tmp_path}/phrase"\n[storage]\nreserve_bytes = 0\n'
    made.write_config(more + '[log]\nlevel = "debug"\nformat = "text"\n')
    generate_keyfile(made.key_file, Secret(PASSPHRASE.encode()), cost=CHEAPEST_FOR_TESTS)
    made.init()
    yield made
    monkeypatch.delenv("RAISE_IN", raising=False)
    made.stop()
    made.run("verify")


def test_every_form_of_a_key_is_found(tmp_path: Path) -> None:
    key = bytes(range(200, 232))
    for number, form in enumerate(forms(key)):
        (tmp_path / f"{number}").write_bytes(b"x" * number + form + b"y")
    places = list(files(tmp_path, but=[]))
    assert len(hits(places, {"it": key})) == len(places) == 11
    assert not hits(places, {"another": bytes(32)})
    for shift in range(4):
        (tmp_path / "b64").write_bytes(base64.b64encode(b"?" * shift + key + b"??"))
        assert hits(files(tmp_path, but=[tmp_path / str(n) for n in range(11)]), {"it": key}), shift


@pytest.mark.timeout(300)
def test_no_key_is_printed_logged_answered_or_left_on_disk(
    coffer: CofferProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, bytes]] = []

    def run(*args: str, ends: int = 0) -> None:
        done: subprocess.CompletedProcess[str] = coffer.run(*args, check=False)
        assert done.returncode == ends, done.stdout + done.stderr
        said.append((" ".join(args), (done.stdout + done.stderr).encode()))

    shares = coffer.base / "shares"
    run("put", *map(str, study_files(tmp_path / "files")))
    needles = keys_of(coffer)
    study = str(sample_study()[0].StudyInstanceUID)
    run("keys", "split", "-n", "2", "-k", "2", "-o", str(shares))
    for number, path in enumerate(sorted(shares.iterdir())):
        needles[f"share {number}"] = parse(path.read_text(), path.name).value.reveal()
    given = [word for path in sorted(shares.iterdir()) for word in ("--share", str(path))]
    run("keys", "drill", *given)
    run("keys", "recover", *given, "--json")
    run("keys", "rotate")
    run("keys", "list", "--json")
    (segment,) = (coffer.archive / "segments").glob("*.seg")
    flip(segment, segment.stat().st_size // 2)
    run("get", "--study", study, "--out", "out", ends=3)
    flip(segment, segment.stat().st_size // 2)
    (tmp_path / "phrase").write_text(WRONG_PASSPHRASE)
    (tmp_path / "phrase").chmod(0o600)
    run("status", ends=8)
    (tmp_path / "phrase").write_text(PASSPHRASE)
    (tmp_path / "phrase").chmod(0o600)
    monkeypatch.setenv("RAISE_IN", "coffer.keys.keyring.keyring:Keyring.study")
    run("get", "--study", study, "--out", "out", ends=6)
    assert b"could not be read: RuntimeError" in said[-1][1], "the fault came, in the thread that reads the index"
    monkeypatch.setenv("RAISE_IN", "coffer.keys.keyring.keyring:Keyring.archive_key")
    run("get", "--study", study, "--out", "out", ends=70)
    assert b"forced, with" in said[-1][1], "the fault came, and its traceback was printed"

    faults = (
        ("coffer.server.engine.commit:Committer.study_key", "text"),
        ("coffer.server.workers.proxy:_RemoteCommitPort.study_key", "json"),
    )
    for fault, form in faults:
        monkeypatch.setenv("RAISE_IN", fault)
        coffer.config.write_text(coffer.config.read_text().replace('format = "text"', f'format = "{form}"'))
        coffer.start()
        try:
            assert store(coffer, 0) != 0
        except Exception as error:  # noqa: BLE001  # the association may end instead
            said.append(("association", repr(error).encode()))
        said += [page(coffer, name) for name in ("metrics", "healthz", "readyz")]
        coffer.stop()
        assert coffer.log.read_text().count("RuntimeError") >= 1, fault
        said.append((f"log {form}", coffer.log.read_bytes()))
        coffer.log.unlink()
    monkeypatch.delenv("RAISE_IN")
    run("shred", study, "--reason", "request 17", "--yes")
    needles |= keys_of(coffer)

    assert len(needles) > 25
    assert all(len(key) >= 32 for key in needles.values())
    meant = [coffer.key_file, shares, tmp_path / "phrase"]
    everything = [*said, *files(tmp_path, but=meant)]
    assert len(everything) > 30
    assert not hits(everything, needles)
    assert hits(files(tmp_path, but=meant[1:]), needles), "the key file, which holds them"
