"""The settings of what an archive is compared with from outside its folder.

Rule: as in `server.config.settings`, of which this is one table.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["Integrity", "VerifierKey"]

VerifierKey = Annotated[str, Meta(pattern=r"^([!-*,-~]{1,200}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44})?$")]


class Integrity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the archive is compared with from outside its folder, so that whoever can write the folder cannot put an
    older or forged state in its place ([integrity](integrity.md#where-trust-comes-from))."""

    vkey: Annotated[
        VerifierKey,
        Meta(description="A verifier key of the archive, as `coffer init` printed it. Empty: the mark's."),
    ] = ""
    mark: Annotated[
        Path,
        Meta(
            description="The file with the high-water mark, preferably on another disk than the archive. It must not "
            "be inside the archive folder.",
            extra={
                "default": "`<archive id>.mark` in `$XDG_STATE_HOME/coffer` if that variable is set, else in "
                "`/var/lib/coffer` for an account of the system that may write there, else in `~/.local/state/coffer`"
            },
        ),
    ] = Path()
