"""Whether a server in the open role is reached from this machine only.

Rule: while there are no users, everybody who reaches the server may do everything, so it listens on loopback or not at
all, whichever the door and with TLS or without; only the command line lifts that, for one run.
"""

import ipaddress
import socket
from collections.abc import Iterator

from coffer.keys.errors import ConfigError
from coffer.server.config.settings import Config

__all__ = ["exposed", "require_covered"]


def exposed(config: Config) -> list[str]:
    """The settings by which a server listens on anything but loopback, each with its value."""
    return [f"{name} {host}" for name, host in _doors(config) if not _is_loopback(host)]


def require_covered(config: Config) -> None:
    """Raise ConfigError if a server in the open role would be reached from other machines."""
    found = exposed(config)
    if found:
        raise ConfigError(
            "there are no users, so everybody who reaches this server may do everything, and "
            f"{' and '.join(found)} is not loopback",
            hint="add users with coffer users add, or listen on 127.0.0.1; for a test network: coffer serve "
            "--insecure-open-role",
        )


def _doors(config: Config) -> Iterator[tuple[str, str]]:
    yield "dimse.host", config.dimse.host
    if config.http.enabled:
        yield "http.host", config.http.host


def _is_loopback(host: str) -> bool:
    """Whether every address of a name is loopback; a name that cannot be resolved is none that can be listened on."""
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return True
    return all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)
