"""The settings of the key providers that are not on the archive's host: an HSM, and the key service of a cloud.

Rule: as in `server.config.settings`, of which these are two tables. They hold no secret.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["AwsKms", "Pkcs11", "Region", "TokenLabel", "Url", "VariableName"]

VariableName = Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")]
TokenLabel = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,32}$")]
Region = Annotated[str, Meta(pattern=r"^([a-z]{2}(-[a-z]+)+-[0-9]+)?$")]
Url = Annotated[str, Meta(pattern=r"^(https?://[!-~]{1,250})?$")]


class Pkcs11(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hardware security module over PKCS#11 (`/opt/coffer/bin/pip install 'coffer-dicom[pkcs11]'`).
    The PIN is never in this file."""

    module: Annotated[
        Path,
        Meta(description="The HSM's own PKCS#11 library, a `.so` file.", extra={"default": "none"}),
    ] = Path()
    token: Annotated[TokenLabel, Meta(description="Label of the token.")] = ""
    pin_env: Annotated[VariableName, Meta(description="Environment variable that holds the user PIN. Empty: none.")] = (
        ""
    )
    pin_file: Annotated[
        Path | None,
        Meta(
            description="File whose first line is the user PIN (for example a systemd credential), instead of the "
            "variable.",
            extra={"default": "none"},
        ),
    ] = None


class AwsKms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """AWS Key Management Service (`/opt/coffer/bin/pip install 'coffer-dicom[aws]'`). Credentials come from where
    AWS's own tools find them (the instance's role, the environment, `~/.aws`), never from this file."""

    region: Annotated[Region, Meta(description="Region of the keys. Empty: the one that AWS's tools find.")] = ""
    endpoint: Annotated[Url, Meta(description="A private endpoint. Empty: the region's public one.")] = ""
    deletion_days: Annotated[
        int,
        Meta(ge=7, le=30, description="Days from the order to destroy a key to its destruction; AWS allows 7 to 30."),
    ] = 30
    timeout_seconds: Annotated[
        float, Meta(description="Longest wait for one response; a request is tried three times.")
    ] = 5.0
