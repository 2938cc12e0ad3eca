"""Listening sockets for both doors, and callers' addresses as people write them.

Rule: `::` takes IPv4 clients too, whatever `net.ipv6.bindv6only` says; they are known by their IPv4 address.
"""

import select
import socket
from typing import Final

__all__ = ["display_address", "is_readable", "is_writable", "listen"]

_EVERY_ADDRESS: Final = "::"
_MAPPED: Final = "::ffff:"


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """Listen on a host name or address; `::` means every address, including IPv4. Raises OSError.

    If a name has an IPv4 address, that one is used.
    """
    if host == _EVERY_ADDRESS and socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
    families = {each[0] for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return socket.create_server((host, port), family=family, backlog=backlog)


def display_address(address: str) -> str:
    """A caller's address without the prefix that an IPv4 address has on an IPv6 socket."""
    return address.removeprefix(_MAPPED) if "." in address else address


def is_readable(sock: socket.socket, seconds: float) -> bool:
    """Whether a socket has data or its end to read, at the latest after `seconds`. Raises OSError, ValueError."""
    return _poll(sock, select.POLLIN, seconds)


def is_writable(sock: socket.socket, seconds: float) -> bool:
    """Whether a socket takes data, at the latest after `seconds`. Raises OSError, ValueError."""
    return _poll(sock, select.POLLOUT, seconds)


def _poll(sock: socket.socket, event: int, seconds: float) -> bool:
    # Not select, which cannot handle descriptors above 1023.
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(1000 * seconds))
