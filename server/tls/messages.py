"""The messages between the server and the process that ends TLS, as msgpack.

Rule: both ends are the same version of Coffer on one machine, started by one process: there is no negotiation, and a
message that does not decode is an internal error.
"""

from typing import Final

import msgspec
from msgspec import Struct, field

from coffer.server.access.certificate import PeerCertificate

__all__ = [
    "Admitted", "Expiry", "Failed", "Order", "Pulse", "Quit", "Ready", "Reload", "Reloaded", "Report", "Setup",
    "decode_order", "decode_report", "encode",
]  # fmt: skip


class _Message(Struct, frozen=True, array_like=True, tag=True):
    pass


class Setup(_Message, frozen=True):
    """First on the control socket: the configuration as JSON, and the doors whose listening sockets were inherited, in
    the order of their descriptors."""

    config: bytes
    doors: list[str]


class Reload(_Message, frozen=True):
    """Read the files again; answered by `Reloaded` with the same number."""

    number: int


class Quit(_Message, frozen=True):
    """End every connection and exit."""


class Ready(_Message, frozen=True):
    """The answer to `Setup`: the files fit together, connections are accepted."""


class Failed(_Message, frozen=True):
    """The other answer to `Setup`: why not, and the remedy. The process ends."""

    cause: str
    hint: str


class Reloaded(_Message, frozen=True):
    """How a reload ended: `cause` is empty if the new set is in use."""

    number: int
    cause: str = ""
    hint: str = ""


class Admitted(_Message, frozen=True):
    """A connection whose handshake is done; its clear socket is attached."""

    door: str
    host: str
    certificate: PeerCertificate | None


class Expiry(_Message, frozen=True):
    """When our certificate and the revocation lists expire, in seconds since 1970; None where there are no lists."""

    certificate: float
    revocations: float | None


class Pulse(_Message, frozen=True):
    """Sent once a second: what happened since the process began, and what is so now."""

    expiry: Expiry
    open: int
    reload_trouble: str = ""  # why the files on disk are not the ones in use
    short_of: str = ""
    lost_lines: int = 0
    reloads: int = 0
    failed_reloads: int = 0
    handshakes: dict[str, int] = field(default_factory=dict)  # by outcome: "done", or one of handshake.REASONS
    ended: dict[str, int] = field(default_factory=dict)  # connections ended for their certificate, by reason


Order = Setup | Reload | Quit
Report = Ready | Failed | Reloaded | Admitted | Pulse

_ENCODER: Final = msgspec.msgpack.Encoder()
encode = _ENCODER.encode
decode_order: Final = msgspec.msgpack.Decoder(Order).decode
decode_report: Final = msgspec.msgpack.Decoder(Report).decode
