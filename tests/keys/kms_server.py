"""AWS KMS as moto imitates it, in a process of its own behind a real socket, and a proxy before it that makes faults.

Rule: what moto leaves out and our provider relies on is added here from the KMS API reference ("Key states of AWS KMS
keys"): a key that is disabled or waits for its deletion encrypts and decrypts nothing. No claim about AWS itself is
proved by this: docs/keys.md says which.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass(slots=True)
class KmsServer:
    """Where it listens, and the faults it makes. Each request takes the first of `faults`, which then is gone.

    A fault is `hang`, `cut`, `garbage`, `500`, or the name of a KMS exception. `seen` counts requests by operation.
    """

    port: int
    faults: list[str] = field(default_factory=list)
    always: str = ""
    seen: list[str] = field(default_factory=list)
    hang_seconds: float = 5.0
    behind: int = 0

    def reset(self) -> None:
        """Forget every key, every fault and what was seen."""
        inner = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=30)
        inner.request("POST", "/moto-api/reset", b"")
        assert inner.getresponse().status == 200
        inner.close()
        self.faults.clear()
        self.seen.clear()
        self.always = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def kms_server() -> Iterator[KmsServer]:
    """Run both while the block runs; every key is forgotten at its end."""
    os.environ.update(CREDENTIALS)
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            behind = int(process.stdout.readline())
            with _proxy(behind) as server:
                yield server
        finally:
            process.stdin.close()
            process.terminate()


@contextmanager
def _proxy(behind: int) -> Iterator[KmsServer]:
    server = KmsServer(0, behind=behind)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            server.seen.append(self.headers["x-amz-target"].rpartition(".")[2])
            fault = server.always or (server.faults.pop(0) if server.faults else "")
            if fault == "hang":
                time.sleep(server.hang_seconds)
            if fault in {"hang", "cut"}:
                self.close_connection = True
                return
            if fault == "garbage":
                self._answer(200, b"<html>captive portal</html>")
            elif fault == "500":
                self._answer(500, b"{}")
            elif fault:
                told = {"__type": fault, "message": "as the test asked"}
                self._answer(500 if "Internal" in fault else 400, json.dumps(told).encode())
            else:
                inner = http.client.HTTPConnection("127.0.0.1", behind, timeout=30)
                inner.request("POST", self.path, body, dict(self.headers.items()))
                answer = inner.getresponse()
                self._answer(answer.status, answer.read())
                inner.close()

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/x-amz-json-1.1")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server.port = listener.server_address[1]
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def _main() -> None:
    from moto.core.exceptions import JsonRESTError
    from moto.kms.responses import KmsResponse
    from moto.server import ThreadedMotoServer

    def guarded(name: str) -> None:
        plain = getattr(KmsResponse, name)

        def checked(self: Any) -> str:
            key_id = self._get_param("KeyId")
            self._validate_key_id(key_id)
            state = self.kms_backend.describe_key(self.kms_backend.get_key_id(key_id)).key_state
            if state != "Enabled":
                raise JsonRESTError("DisabledException" if state == "Disabled" else "KMSInvalidStateException", state)
            answer: str = plain(self)
            return answer

        setattr(KmsResponse, name, checked)

    guarded("encrypt")
    guarded("decrypt")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _main()
