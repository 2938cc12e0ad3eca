"""A real SoftHSM2 token in a folder of its own, and ways to take it away and give it back."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coffer.keys.memory.secret import Secret
from coffer.keys.providers.pkcs11 import HsmProvider
from coffer.keys.providers.pkcs11_token import PROCESS_LOCK, Token
from tests.conftest import absent

PIN, SO_PIN, LABEL = "87654321", "12345678", "archive"
ARCHIVE_ID = bytes(range(16))


def library() -> Path:
    """The module."""
    folders = (Path("/usr/lib/softhsm"), Path("/usr/local/lib/softhsm"), *Path("/usr/lib").glob("*/softhsm"))
    found = next((path for folder in folders if (path := folder / "libsofthsm2.so").is_file()), None)
    return found or absent("SoftHSM2 is not installed: apt install softhsm2")


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """The folder that holds the configuration and, in `tokens`, the token."""

    module: Path
    folder: Path

    def make_token(self, label: str = LABEL) -> None:
        """Initialise one more token."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        self.restart()

    def restart(self) -> None:
        """Stop the module in this process: it reads its configuration and its slots when it is started again."""
        if "pkcs11" in sys.modules:
            with PROCESS_LOCK:
                sys.modules["pkcs11"].lib(str(self.module)).finalize()

    def provider(self, pin: str = PIN, label: str = LABEL, archive_id: bytes = ARCHIVE_ID) -> HsmProvider:
        """A provider over the token, not connected yet."""
        return HsmProvider(archive_id, self.token(pin, label))

    def token(self, pin: str = PIN, label: str = LABEL) -> Token:
        """The token, not connected yet."""
        return Token(self.module, label, lambda: Secret(pin.encode()))

    @contextmanager
    def away(self) -> Iterator[None]:
        """While the block runs the token is not there, as if the HSM were switched off."""
        (self.folder / "tokens").rename(self.folder / "away")
        try:
            yield
        finally:
            (self.folder / "away").rename(self.folder / "tokens")

    def drop_sessions(self) -> None:
        """Let every session of this process die, as when an HSM restarts: C_CloseAllSessions behind the library."""
        import pkcs11

        with PROCESS_LOCK:
            (token,) = (t for t in pkcs11.lib(str(self.module)).get_tokens() if t.label == LABEL)
            code = ctypes.CDLL(str(self.module)).C_CloseAllSessions(ctypes.c_ulong(token.slot.slot_id))
        assert code == 0


def make(folder: Path) -> SoftHsm:
    """Make the folder and its one token, and point this process at it."""
    found = SoftHsm(library(), folder)
    (folder / "tokens").mkdir(parents=True, mode=0o700)
    lines = (f"directories.tokendir = {folder}/tokens", "objectstore.backend = file", "log.level = ERROR")
    (folder / "softhsm2.conf").write_text("\n".join(lines) + "\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    found.make_token()
    return found
