"""What an archive needs, file by file, how a file may be damaged, and the commands that somebody types first."""

import os
from pathlib import Path
from typing import Final

FILES: Final = {
    "key": "archive.key",
    "passphrase": "passphrase",
    "config": "coffer.toml",
    "mark": "mark",
    "archive": "archive/archive.json",
    "latest": "archive/checkpoints/latest",
    "history": "archive/checkpoints/history",
    "endorsements": "archive/checkpoints/endorsements",
    "keyring": "archive/keyring/data.mdb",
    "index": "archive/index/data.mdb",
    "segment": "archive/segments/00000001.seg",
}
COMMANDS: Final = {
    "status": ("status",),
    "verify": ("verify",),
    "put": ("put", "files"),
    "find": ("find",),
    "keys": ("keys", "list"),
    "recover": ("recover", "show"),
    "serve": ("serve",),
}


def damage(path: Path) -> None:
    """Other bytes than Coffer wrote."""
    path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes()))


def cut(path: Path) -> None:
    """Half of it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Nothing in it."""
    path.write_bytes(b"")


def fold(path: Path) -> None:
    """A folder in its place."""
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    """A named pipe in its place, at whose other end nobody writes."""
    path.unlink()
    os.mkfifo(path, 0o600)


def remove(path: Path) -> None:
    """It is gone."""
    path.unlink()
