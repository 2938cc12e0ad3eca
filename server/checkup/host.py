"""The host: room on the volumes, who may read which file, and who listens at the ports.

Rule: opens no key and changes nothing.
"""

import os
import stat
from pathlib import Path
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import writer
from coffer.keys.disk.volume import free_bytes
from coffer.server.checkup.result import Report, State
from coffer.server.config.settings import Config, Dimse, Http
from coffer.server.host.sockets import listen

__all__ = ["examine_host"]

_PLENTY: Final = 4  # as many times the reserve must be free, or there is soon no room
_SERVERS: Final = frozenset({"coffer serve", "coffer demo"})
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def examine_host(config: Config, config_file: Path | None, report: Report) -> None:
    """Look at volumes, files and ports."""
    with report.about("disk"):
        _disk(config, report)
    for what, path in _secrets(config).items():
        with report.about("permissions"):
            _secret(what, path, report)
    if config_file is not None:
        with report.about("permissions"):
            _settings(config_file, report)
    _ports(config, report)


def _disk(config: Config, report: Report) -> None:
    free, reserve = free_bytes(config.archive), config.storage.reserve_bytes
    told = f"{free / 2**30:,.1f} GiB free on the archive's volume, {reserve / 2**20:,.0f} MiB of them in reserve"
    remedy = "free space there, or move the archive to a larger volume; nothing is stored below the reserve"
    if free <= reserve:
        report.add("disk", State.FAILED, told, remedy)
    elif free <= _PLENTY * reserve:
        report.add("disk", State.WARNING, told, remedy)
    else:
        report.add("disk", State.OK, told)


def _secrets(config: Config) -> dict[str, Path]:
    """Files that only Coffer's account may read."""
    keys = config.keys
    found = {"the archive folder": config.archive, "the file of users": config.access.users}
    if keys.provider == "file":
        found["the key file"] = keys.key_file
    if keys.passphrase_file is not None:
        found["the file with the passphrase"] = keys.passphrase_file
    if config.tls.key_file != Path():
        found["the TLS key"] = config.tls.key_file
    return found


def _secret(what: str, path: Path, report: Report) -> None:
    try:
        found = path.stat()
    except FileNotFoundError:
        if what != "the file of users":  # without users there is none
            report.add("permissions", State.FAILED, f"{what} is not there: {path}", "put it back from its copy")
        return
    if found.st_uid not in {os.geteuid(), 0} and os.geteuid():
        report.add(
            "permissions", State.WARNING, f"{what} belongs to another account than this one: {path}",
            "run Coffer and its commands under one account",
        )  # fmt: skip
    elif found.st_mode & _OTHERS and what != "the archive folder":
        report.add("permissions", State.FAILED, f"others may read {what}: {path}", f"chmod 600 {path}")
    elif found.st_mode & stat.S_IRWXO:
        report.add("permissions", State.FAILED, f"everybody may look into {what}: {path}", f"chmod 700 {path}")
    else:
        report.add("permissions", State.OK, f"{what} is for its account only: {path}")


def _settings(path: Path, report: Report) -> None:
    if path.stat().st_mode & stat.S_IWOTH:
        report.add("permissions", State.FAILED, f"everybody may change the configuration: {path}", f"chmod o-w {path}")
    else:
        report.add("permissions", State.OK, f"not everybody may change the configuration: {path}")


def _ports(config: Config, report: Report) -> None:
    served = writer(ArchiveFolder.open(config.archive).lock)
    if served is not None and served.command in _SERVERS:
        report.add("ports", State.OK, f"the archive is served by {served}")
        return
    doors: dict[str, Dimse | Http] = {"DICOM": config.dimse, **({"HTTP": config.http} if config.http.enabled else {})}
    for name, door in doors.items():
        for port in filter(None, (door.port, door.tls_port)):
            try:
                listen(door.host, port, 1).close()
            except OSError as error:
                report.add(
                    "ports", State.FAILED, f"no server of this archive runs, and {name} cannot have {door.host} "
                    f"port {port}: {error.strerror}", f"find out who has it: ss -ltnp 'sport = :{port}'",
                )  # fmt: skip
            else:
                report.add("ports", State.OK, f"{name} can have {door.host} port {port}; no server runs now")
