"""A whole archive that was written once: the second readers open it without Coffer, and Coffer still does."""

import hashlib
import json
import shutil
from pathlib import Path

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.verify import Verifier
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Http, Keys
from coffer.server.engine.opening import open_writer
from coffer.server.services.retrieve import Retriever
from tests.vectors import make_archive, reader_body, reader_keys, reader_log

GOLDEN = Path(make_archive.__file__).parent / "archive"
OBJECT, STUDY_REKEYED = 1, 9


def test_second_readers_return_every_object() -> None:
    """Chain, tree and checkpoint by one reader, keys by another, bodies by a third; none shares code with Coffer."""
    log = reader_log.Log(GOLDEN / "archive")
    keyring = reader_keys.open_keyring((GOLDEN / "key").read_bytes(), b"", GOLDEN / "archive" / "keyring")
    assert keyring.archive_id == log.archive_id
    assert log.signed is not None
    assert log.signed[0] == len(log.records)
    found = []
    rekeyed = {r["key_id"] for r in log.records if r["kind"] == STUDY_REKEYED}
    assert len(rekeyed) == 1
    assert not rekeyed & set(keyring.deks)
    for record in (r for r in log.records if r["kind"] == OBJECT and r["key_id"] not in rekeyed):
        key_id, content_id, body = (bytes(record[name]) for name in ("key_id", "content_id", "body"))  # type: ignore[call-overload]
        blob = bytes.fromhex(keyring.derived(key_id)["blob"])
        _, data = reader_body.read_body(blob, (log.archive_id, key_id, content_id), OBJECT, body)
        found.append(hashlib.sha256(data).hexdigest())
    assert sorted(found) == sorted(json.loads((GOLDEN / "expected.json").read_text()).values())


def test_coffer_still_opens_it(tmp_path: Path) -> None:
    """With an index made anew from the log, from a copy, because opening writes."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    archive, key = tmp_path / "golden" / "archive", tmp_path / "golden" / "key"
    key.chmod(0o600)  # git keeps no mode
    assert not list(Verifier(ArchiveFolder.open(archive)).findings())
    config = Config(archive=archive, http=Http(enabled=False), keys=Keys(key_file=key))
    with open_writer(config) as engine:
        for name, digest in json.loads((GOLDEN / "expected.json").read_text()).items():
            (instance,) = Retriever(engine).instances({0x00080018: (name,)}, Principal.peer("TEST"))
            assert hashlib.sha256(b"".join(instance.open())).hexdigest() == digest
