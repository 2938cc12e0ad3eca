"""An acceptor in this process, over an archive that is opened for it: what a test replaces here is replaced there."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from coffer.server.access.decision import policy_of
from coffer.server.config.settings import Config
from coffer.server.dimse.acceptor import Acceptor
from coffer.server.dimse.protocol.connection import Connection
from coffer.server.engine.opening import open_writer
from coffer.server.observe.metrics import Metrics
from coffer.server.services.bundle import WriterServices
from tests.gates import open_gate
from tests.server.dimse.raw_peer import MAX_PDU


@contextmanager
def serving(config: Config) -> Iterator[int]:
    """The port where an acceptor serves one association after another, over the archive itself."""
    with open_writer(config) as archive, socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                connection = Connection(sock, max_pdu=MAX_PDU, gap_seconds=5.0)
                gate = open_gate(config, "127.0.0.1")
                Acceptor(
                    connection, "127.0.0.1", config, policy_of(config), WriterServices.of(archive), Metrics(), gate
                ).serve()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
