"""Backups in an object store: object locks are set, renewed and checked; a vault keeps no versions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.keys.errors import ConfigError, UnavailableError
from coffer.server.backup.s3_target import S3Target
from coffer.server.backup.targets import open_vault
from tests.server.backup.s3_server import client, new_bucket, s3_server
from tests.server.filled import run, told
from tests.server.three_studies import configure

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def buckets() -> Iterator[list[str]]:
    with s3_server() as made:
        yield made


def test_a_lock_is_set_and_renewed_and_never_shortened(buckets: list[str]) -> None:
    bucket = new_bucket(buckets, ObjectLockEnabledForBucket=True)
    target = S3Target(f"s3://{bucket}/at")
    target.put("one", b"1")
    held = []
    for until_ms in (4 * 10**12, 4 * 10**12 + DAY_MS, 4 * 10**12):
        target.hold("one", until_ms)
        held.append(client().head_object(Bucket=bucket, Key="at/one")["ObjectLockRetainUntilDate"].timestamp())
    assert held == [4e9, 4e9 + 86400, 4e9 + 86400]


def test_a_bucket_that_keeps_versions_is_no_place_for_the_keyring(buckets: list[str]) -> None:
    bucket = new_bucket(buckets, ObjectLockEnabledForBucket=True)
    with pytest.raises(ConfigError, match="keeps versions"):
        open_vault(f"s3://{bucket}/keys")
    assert open_vault(f"s3://{new_bucket(buckets)}/keys").list("") == []


def test_what_does_not_work_says_why_and_tells_no_secret(buckets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError):
        S3Target("s3://no-such-bucket/x").list("")
    for place in ("s3://", "s3://user:password@host/bucket"):
        with pytest.raises(ConfigError) as refused:
            S3Target(place)
        assert "password@" not in str(refused.value)


def test_a_night_in_an_object_store(buckets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = f"s3://{new_bucket(buckets, ObjectLockEnabledForBucket=True)}/night"
    vault = f"s3://{new_bucket(buckets)}/vault"
    configure("[backup]", f"target = '{there}'", f"keys = '{vault}'", "lock_days = 7")
    run("init")
    done = told("backup", "run")
    assert told("backup", "run")["uploaded"] == 0
    held = _held(there)
    assert {name: mode for name, mode in held.items() if mode != "COMPLIANCE"} == {}
    run("backup", "verify", "--all")
    restored = told("restore", str(done["snapshot"]), "restored")
    assert restored["findings"] == []
    run("backup", "prune", "--dry-run")
    configure("[backup]", f"target = '{tmp_path}/folder'", "keys = 'none'", "lock_days = 7")
    (tmp_path / "folder").mkdir()
    assert "cannot lock" in run("backup", "run", code=11).output


def _held(place: str) -> dict[str, str]:
    """How each object of the snapshots is held. A flag of a run that could not be dropped is held by nobody."""
    bucket = place.split("/")[2]
    keys = [each["Key"] for each in client().list_objects_v2(Bucket=bucket)["Contents"]]
    return {
        key: str(client().head_object(Bucket=bucket, Key=key).get("ObjectLockMode"))
        for key in keys
        if "/turns/" not in key
    }
