"""A real Orthanc as a child process, driven through its REST interface, with Coffer as its modality "coffer"."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx


class OrthancProcess:
    """One Orthanc with an empty store. Its AE title is ORTHANC; it may store, find, move and get."""

    def __init__(
        self,
        folder: Path,
        dicom_port: int,
        http_port: int,
        coffer_port: int,
        tls: tuple[Path, Path, Path] | None = None,
    ) -> None:
        """`tls` are its certificate, its key and the authorities: then it speaks nothing else."""
        self.folder, self.dicom_port = folder, dicom_port
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=120)
        self.process: subprocess.Popen[bytes] | None = None
        config = {
            "Name": "peer",
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "DicomAet": "ORTHANC",
            "DicomPort": dicom_port,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "OverwriteInstances": True,
            "UnknownSopClassAccepted": True,
            "DicomModalities": {"coffer": ["COFFER", "127.0.0.1", coffer_port]},
            "Plugins": [],
        }
        if tls is not None:
            certificate, key, authorities = map(str, tls)
            config |= {
                "DicomTlsEnabled": True,
                "DicomTlsCertificate": certificate,
                "DicomTlsPrivateKey": key,
                "DicomTlsTrustedCertificates": authorities,
                "DicomTlsRemoteCertificateRequired": True,
                "DicomModalities": {
                    "coffer": {"AET": "COFFER", "Host": "127.0.0.1", "Port": coffer_port, "UseDicomTls": True}
                },
            }
        (folder / "orthanc.json").write_text(json.dumps(config))

    @staticmethod
    def program() -> str | None:
        """The path of the program, or None."""
        return shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

    def start(self) -> None:
        """Start and return when the REST interface answers."""
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(self.program()), str(self.folder / "orthanc.json")],
                stdout=log,
                stderr=log,
                env={"TCP_NODELAY": "1"},
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client.get("/system").raise_for_status()
            except httpx.HTTPError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End the process."""
        self.client.close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)

    def upload(self, path: Path) -> str | None:
        """Give Orthanc a file; returns Orthanc's own id of the instance, or None where Orthanc cannot read the file."""
        answer = self.client.post("/instances", content=path.read_bytes())
        return str(answer.json()["ID"]) if answer.is_success else None

    def post(self, path: str, body: object) -> dict[str, object]:
        """POST JSON and return the JSON answer."""
        answer = self.client.post(path, json=body)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        result: dict[str, object] = answer.json()
        return result

    def get(self, path: str) -> object:
        """GET a JSON answer."""
        answer = self.client.get(path)
        answer.raise_for_status()
        return answer.json()

    def file(self, instance: str) -> bytes:
        """The Part 10 file Orthanc stored."""
        return self.client.get(f"/instances/{instance}/file").raise_for_status().content

    def delete_everything(self) -> None:
        """Empty the store."""
        for patient in self.get("/patients"):  # type: ignore[attr-defined]
            self.client.delete(f"/patients/{patient}").raise_for_status()
