"""Listening sockets for both doors: an address as it is configured, and callers' addresses as people write them.

Rule: `::` takes IPv4 clients too, whatever `net.ipv6.bindv6only` says; they are known by their IPv4 address.
"""

import select
import socket
from typing import Final

__all__ = ["has_come", "listen", "named", "takes_more"]

_EVERY_ADDRESS: Final = "::"
_MAPPED: Final = "::ffff:"


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """Listen on a host name or address; `::` means every address, of IPv4 too. Raises OSError.

    Of a name's addresses the IPv4 one is taken where there is one.
    """
    if host == _EVERY_ADDRESS and socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
    families = {each[0] for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return socket.create_server((host, port), family=family, backlog=backlog)


def named(address: str) -> str:
    """A caller's address without the form that IPv4 takes on an IPv6 socket."""
    return address.removeprefix(_MAPPED) if "." in address else address


def has_come(sock: socket.socket, seconds: float) -> bool:
    """Whether a socket has something to read, or its end, or gets it within `seconds`. Raises OSError, ValueError."""
    return _is_there(sock, select.POLLIN, seconds)


def takes_more(sock: socket.socket, seconds: float) -> bool:
    """Whether a socket takes something at once, or within `seconds`. Raises OSError, ValueError."""
    return _is_there(sock, select.POLLOUT, seconds)


def _is_there(sock: socket.socket, event: int, seconds: float) -> bool:
    # Not select, which ends at descriptor 1023.
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(1000 * seconds))
