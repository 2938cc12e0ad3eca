"""The settings of TLS: whose certificates are shown, whose are believed, and what a peer must prove.

Rule: as in `server.config.settings`, of which this is one table. No file is opened here.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["SpkiHash", "Tls"]

_NONE = {"default": "none"}
SpkiHash = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS for DICOM and HTTP, in and out (`tls_port`, `[[peers]] tls`): versions 1.2 and 1.3. The files are read again
    when they change, and at once by `coffer reload`; a set that does not fit together leaves the one in use in place.
    See [certificates step by step](security/certificates.md)."""

    certificate_file: Annotated[
        Path,
        Meta(
            description="Coffer's own certificate in PEM, followed by those of intermediate authorities.", extra=_NONE
        ),
    ] = Path()
    key_file: Annotated[
        Path,
        Meta(
            description="Its private key in PEM, without a passphrase. Nobody but the account that runs Coffer, and "
            "root, may read the file.",
            extra=_NONE,
        ),
    ] = Path()
    ca_file: Annotated[
        Path,
        Meta(
            description="Certificates in PEM of the authorities whose certificates are believed, of callers and of "
            "destinations. Use an authority of your own: with a public one, every customer of it is believed.",
            extra=_NONE,
        ),
    ] = Path()
    crl_file: Annotated[
        Path | None,
        Meta(
            description="Certificate revocation lists in PEM, one of each authority that issues certificates of "
            "peers. A revoked certificate ends its open associations, too. Where a list is out of date, nobody that it "
            "concerns is let in.",
            extra=_NONE,
        ),
    ] = None
    require_certificate: Annotated[
        bool,
        Meta(
            description="Whether DICOM callers must show a certificate of `ca_file` (mutual authentication). "
            "Otherwise one is verified if it is shown, and anybody may call. HTTP callers may always go without."
        ),
    ] = True
    max_handshakes: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Handshakes under way at the same time, of both doors. Beyond that the oldest of the address "
            "that holds most is cut.",
        ),
    ] = 64
    max_handshakes_per_address: Annotated[
        int, Meta(ge=1, le=1000, description="The same for one remote address, of which the oldest is cut.")
    ] = 16
    handshakes_per_second: Annotated[
        float,
        Meta(
            ge=1,
            le=1_000_000,
            description="Handshakes a second with one remote address; five times as many at once. Each costs "
            "processor time before anybody has proved anything. Beyond it connections are closed.",
        ),
    ] = 100.0
    handshake_seconds: Annotated[
        float, Meta(gt=0, le=86_400, description="Time from the TCP connection to the end of the TLS handshake.")
    ] = 5.0
