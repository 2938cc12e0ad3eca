"""Convert errors of AWS KMS and its client library to ours, with a cause and a remedy.

Rule: every call is made inside `kms_call`; no boto3 exception leaves it. Messages hold key ARNs, never key bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from coffer.keys.errors import ConfigError, KeyUnavailableError, UnavailableError

__all__ = ["MissingError", "StateError", "kms_call"]

_CREDENTIALS: Final = "renew the AWS credentials of this machine; check its clock"
_DOES_NOT_OPEN: Final = "the keyring was altered, belongs to another archive, or was wrapped under another key"
_SETTINGS: Final = "check [keys.aws] and the alias and tag policies of the account"


class MissingError(KeyUnavailableError):
    """The key or alias is not in this account and region."""


class StateError(KeyUnavailableError):
    """The key's state forbids decryption; `DescribeKey` shows the state."""


# KMS API reference, "Common Errors" and the errors of each operation. Anything else may be temporary: throttling,
# internal and unknown errors become UnavailableError.
_KNOWN: Final[dict[str, tuple[type[ConfigError | KeyUnavailableError], str]]] = {
    "AccessDeniedException": (ConfigError, "give this identity the permissions in docs/keys.md; check the key policy"),
    "UnrecognizedClientException": (ConfigError, _CREDENTIALS),
    "InvalidClientTokenId": (ConfigError, _CREDENTIALS),
    "ExpiredTokenException": (ConfigError, _CREDENTIALS),
    "IncompleteSignatureException": (ConfigError, _CREDENTIALS),
    "InvalidSignatureException": (ConfigError, _CREDENTIALS),
    "MissingAuthenticationTokenException": (ConfigError, _CREDENTIALS),
    "DisabledException": (ConfigError, "the key is disabled: aws kms enable-key --key-id ARN"),
    "LimitExceededException": (ConfigError, "ask AWS for a higher KMS quota, or destroy retired epochs"),
    "ValidationException": (ConfigError, _SETTINGS),
    "TagException": (ConfigError, _SETTINGS),
    "UnsupportedOperationException": (ConfigError, _SETTINGS),
    "InvalidCiphertextException": (KeyUnavailableError, _DOES_NOT_OPEN),
    "IncorrectKeyException": (KeyUnavailableError, _DOES_NOT_OPEN),
    "NotFoundException": (
        MissingError,
        "the key was deleted, or this is another account or region: check [keys.aws] region",
    ),
    "KMSInvalidStateException": (StateError, "aws kms describe-key shows its state"),
}


@contextmanager
def kms_call(doing: str) -> Iterator[None]:
    """Convert exceptions of boto3 in the block to ours; `doing` completes "AWS KMS cannot ..."."""
    try:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            NoRegionError,
            PartialCredentialsError,
        )
    except ImportError as error:
        raise ConfigError(
            "the aws-kms provider needs the package boto3", hint=f"{sys.executable} -m pip install 'coffer-dicom[aws]'"
        ) from error
    try:
        yield
    except ClientError as error:
        raise _converted(error, doing) from error
    except NoRegionError as error:
        raise ConfigError("no AWS region is configured", hint="set [keys.aws] region, or AWS_REGION") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise ConfigError(
            "no AWS credentials were found", hint="give the machine a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID"
        ) from error
    except KeyError as error:  # the answer parses, but is not the one that was requested
        raise UnavailableError(
            f"AWS KMS cannot {doing}: the answer does not come from AWS KMS",
            hint="check [keys.aws] endpoint, and whether a proxy answers instead",
        ) from error
    except BotoCoreError as error:  # timeouts, refused connections, unresolved names, truncated answers
        raise UnavailableError(
            f"AWS KMS cannot {doing}: no answer ({type(error).__name__})",
            hint="check the network, the endpoint and the proxy; nothing was changed",
        ) from error


def _converted(error: Any, doing: str) -> ConfigError | KeyUnavailableError | UnavailableError:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    cause = f"AWS KMS cannot {doing}: {code}"
    if code in _KNOWN:
        kind, remedy = _KNOWN[code]
        return kind(cause, hint=remedy)
    return UnavailableError(cause, hint="AWS KMS is busy or failing: try again; nothing was changed")
