"""A target in an object store that speaks S3: obstore moves the data, boto3 sets and reads object locks.

Rule: no condition on a write is relied on, because some stores accept one and ignore it. Credentials, region and
endpoint come from where AWS's own tools find them. No key, password or address of a request gets into a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from coffer.archive.copies.target import MOST_BYTES, Stored, Target, is_name, require_name
from coffer.keys.buffer import Buffer
from coffer.keys.errors import ConfigError, IntegrityError, NotFoundError, UnavailableError

__all__ = ["S3Target"]

_NEEDS: Final = "pip install 'coffer-dicom[s3]'"
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_NEVER: Final = datetime.fromtimestamp(0, UTC)


class S3Target(Target):
    """Objects in a bucket below a prefix. Each is stored in one request; a listing shows what was stored before, as S3
    promises since 2020."""

    def __init__(self, place: str) -> None:
        """`place` is `s3://BUCKET/PREFIX`. Raises ConfigError if it is not, or if a package is missing."""
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        if not bucket or "@" in place or "?" in place:
            raise ConfigError(
                "a target in an object store is s3://BUCKET/PREFIX", hint="write it so, without a password"
            )
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError as error:
            raise ConfigError("a target in an object store needs the package obstore", hint=_NEEDS) from error
        self._obstore: Any = obstore
        self._place = place.rstrip("/")
        self._bucket, self._prefix = bucket, prefix.strip("/")
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
        self._endpoint = endpoint
        more: dict[str, Any] = {"endpoint": endpoint, "virtual_hosted_style_request": False} if endpoint else {}
        with self._reported("is reached"):
            self._store: Any = S3Store(
                bucket,
                prefix=self._prefix or None,
                client_options={"allow_http": endpoint.startswith("http://"), "timeout": "60s"},
                retry_config={"max_retries": 5},
                **more,
            )

    @property
    def name(self) -> str:
        """The place."""
        return self._place

    def put(self, name: str, data: Buffer) -> None:
        """One PUT. Without a checksum of its own: the caller reads back."""
        with self._reported("stores nothing"):
            self._obstore.put(self._store, require_name(name), bytes(data), use_multipart=False)

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """One GET, its length looked at before the body is read."""
        with self._reported(f"does not give {require_name(name)}"):
            found = self._obstore.get(self._store, name)
            if found.meta["size"] > most:
                raise IntegrityError(f"{name} at {self.name} is larger than the {most} bytes that Coffer ever writes")
            return bytes(found.bytes())

    def read(self, name: str, offset: int, length: int) -> bytes:
        """One GET of a range."""
        with self._reported(f"does not give {require_name(name)}"):
            if not length:
                return b""
            size = self._obstore.head(self._store, name)["size"]
            if offset + length > size:
                raise IntegrityError(f"{name} at {self.name} is too short")
            data = bytes(self._obstore.get_range(self._store, name, start=offset, length=length))
        if len(data) != length:
            raise IntegrityError(f"{name} at {self.name} is too short")
        return data

    def list(self, prefix: str) -> list[Stored]:
        """As many requests as the store needs for it."""
        found = []
        with self._reported("lists nothing"):
            for page in self._obstore.list(self._store, prefix.rpartition("/")[0] or None, chunk_size=1000):
                for each in page:
                    if each["path"].startswith(prefix) and is_name(each["path"]):
                        stored_ms = int(each["last_modified"].timestamp() * 1000)
                        found.append(Stored(each["path"], each["size"], stored_ms))
        return sorted(found)

    def remove(self, name: str) -> None:
        """One DELETE. Under an object lock, or with versions, the store may keep the object: see `keeps_removed`."""
        with self._reported("removes nothing"):
            try:
                self._obstore.delete(self._store, require_name(name))
            except FileNotFoundError:
                return

    def hold(self, name: str, until_ms: int) -> None:
        """Let the store keep an object until then, whoever orders otherwise (COMPLIANCE), and check that it says so.

        Raises UnavailableError if it does not, as where its bucket was made without object lock.
        """
        where = {"Bucket": self._bucket, "Key": f"{self._prefix}/{require_name(name)}" if self._prefix else name}
        until = datetime.fromtimestamp(until_ms // 1000, UTC)
        with self._reported("sets no object lock"):
            client = self._client()
            if _held_until(client.head_object(**where)) < until:
                client.put_object_retention(**where, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until})
            kept = _held_until(client.head_object(**where))
        if kept < until:
            raise UnavailableError(
                f"{self.name} did not set the object lock that was asked for",
                hint="make the bucket with object lock, or set [backup] lock_days = 0",
            )

    def keeps_removed(self) -> bool:
        """Whether the bucket keeps versions, so that what is removed stays."""
        with self._reported("does not say whether it keeps versions"):
            return bool(self._client().get_bucket_versioning(Bucket=self._bucket).get("Status") == "Enabled")

    def _client(self) -> Any:
        try:
            import boto3
        except ImportError as error:
            raise ConfigError("object locks need the package boto3", hint=_NEEDS) from error
        return boto3.Session().client("s3", endpoint_url=self._endpoint or None)

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Raise what the libraries raise in the block as errors of a target, without the text of a request."""
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"{self._place} {what}: there is no such object or bucket") from error
        except Exception as error:
            if type(error).__module__.startswith("coffer."):
                raise
            code = _code(error) or type(error).__name__
            raise UnavailableError(
                f"{self._place} {what}: {code}",
                hint="check its address, the bucket, the credentials and the network; then run the command again",
            ) from error


def _code(error: Exception) -> str:
    """The error code of S3 in an exception of boto3, or nothing."""
    told = getattr(error, "response", None)
    return str(told.get("Error", {}).get("Code", "")) if isinstance(told, dict) else ""


def _held_until(told: Any) -> datetime:
    """Until when an object is held in COMPLIANCE mode, by the answer to a HEAD."""
    until = told.get("ObjectLockRetainUntilDate")
    return until if told.get("ObjectLockMode") == "COMPLIANCE" and isinstance(until, datetime) else _NEVER
