"""An object store for tests: moto's on loopback, or a real one that the environment names.

COFFER_TEST_S3=http://127.0.0.1:17481 AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... pytest tests/server/backup
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[list[str]]:
    """A store while the block runs, reached by the environment. Yields the names of its buckets, to add to."""
    real = os.environ.get("COFFER_TEST_S3", "")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in _ENVIRONMENT.items():
            if not (real and name in os.environ):
                patched.setenv(name, value)
        patched.setenv("AWS_DEFAULT_REGION", os.environ["AWS_REGION"])
        if real:
            patched.setenv("AWS_ENDPOINT_URL", real)
            yield []
            return
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        patched.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.get_host_and_port()[1]}")
        try:
            yield []
        finally:
            server.stop()


def client() -> Any:
    """A client of the store."""
    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def new_bucket(made: list[str], **options: Any) -> str:
    """Make a bucket that nothing is in."""
    name = f"coffer-test-{os.getpid()}-{len(made)}"
    client().create_bucket(Bucket=name, **options)
    made.append(name)
    return name
