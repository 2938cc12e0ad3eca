"""Try, in a process of its own, what a receiving process must not be able to do, and print what became of it.

Arguments: `confined` or `free`, the folder of an archive, its key file, a port that it may connect to, and one that it
must not. Everything works when it is free, apart from what the machine itself forbids.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.inspect.view import KeyringView
from coffer.server.config.settings import Config, Keys, Peer
from coffer.server.confine.confine import confine
from coffer.server.workers.checks import body_limits
from coffer.server.workers.worker import needs_of

HOST = "127.0.0.1"
MPTCP = 262


def in_thread(action: Callable[[], object]) -> None:
    """Do it in a thread that is started afterwards."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def fork() -> None:
    """Start a process, which ends at once."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def fast_open(port: int) -> None:
    """Connect without connect(2)."""
    with socket.socket() as sock:
        sock.sendto(b"x", socket.MSG_FASTOPEN, (HOST, port))


def enlarge(path: Path, size: int) -> None:
    """Make a file of this size, of holes, and remove it."""
    with path.open("wb") as file:
        try:
            file.truncate(size)
        finally:
            path.unlink()


def main() -> None:
    """Run."""
    mode, archive, key, permitted, other = sys.argv[1:]
    peer = Peer(ae_title="DEST", host=HOST, port=int(permitted))
    config = Config(archive=Path(archive), keys=Keys(key_file=Path(key)), peers=[peer])
    folder = ArchiveFolder.open(config.archive)
    feed = KeyringView(folder.keyring).changes
    lacking = confine(needs_of(config, folder)) if mode == "confined" else ()
    largest = body_limits(config.limits)[1]
    spooled = folder.spool / "0123456789abcdef.sealed"
    actions: dict[str, Callable[[], object]] = {
        "read the key file": lambda: Path(key).read_bytes(),
        "read the key file in a thread": lambda: in_thread(lambda: Path(key).read_bytes()),
        "read the keyring": (folder.keyring / "data.mdb").read_bytes,
        "read the index": lambda: list((folder.path / "index").iterdir()),
        "write into the log": lambda: (folder.segments / "x").write_bytes(b""),
        "write beside the archive": lambda: Path(key).with_name("x").write_bytes(b""),
        "read the server's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "list the passwords": lambda: Path("/etc/passwd").read_bytes(),
        "start a process": fork,
        "signal the server": lambda: os.kill(os.getppid(), 0),
        "listen": lambda: socket.socket().bind((HOST, 0)),
        "send datagrams": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "speak to local services": lambda: socket.socket(socket.AF_UNIX),
        "speak another protocol": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP),
        "connect to another port": lambda: socket.create_connection((HOST, int(other))),
        "connect to another port at once": lambda: fast_open(int(other)),
        "make a file larger than any object": lambda: enlarge(folder.spool / "large", largest + 1),
        "connect to a destination": lambda: socket.create_connection((HOST, int(permitted))),
        "read the log": lambda: [path.read_bytes() for path in folder.segments.iterdir()],
        "write a spool file": lambda: spooled.write_bytes(b"x"),
        "remove a spool file": spooled.unlink,
        "follow the keyring's feed": lambda: feed(0),
        "make a file as large as an object": lambda: enlarge(folder.spool / "large", largest),
        "import": lambda: __import__("xmlrpc.client"),
        "find a host by its name": lambda: socket.getaddrinfo("localhost", int(permitted)),
        "start a thread": lambda: in_thread(lambda: None),
    }
    results: dict[str, str] = {}
    for name, action in actions.items():
        try:
            action()
            results[name] = ""
        except OSError as error:
            results[name] = error.strerror or str(error)
    print(json.dumps({"lacking": lacking, "results": results}), flush=True)
    os.execv(sys.executable, [sys.executable, "-c", "print('escaped')"])  # last, since it ends this program


if __name__ == "__main__":
    main()
