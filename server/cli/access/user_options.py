"""The options that describe a user: what proves it, what it may do, and what narrows that.

Rule: an option that is not given changes nothing; `none` as the only value empties a list, and lifts a limit.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from coffer.keys.errors import InputError
from coffer.server.access.roles import Role
from coffer.server.access.users import User

__all__ = ["described", "user_options"]

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS: Final = (
    ("--role", "roles", click.Choice([each.value for each in Role]), "A role; may be repeated."),
    ("--ae-title", "ae_titles", str, "An AE title that the user may call itself."),
    ("--certificate", "certificates", str, "A PEM file, a public key's SHA-256, or 'ISSUER | DNS:NAME'."),
    ("--address", "addresses", str, "An address from where the AE title is proof enough."),
    ("--account", "accounts", str, "An account of this host's operating system."),
    ("--subject", "subjects", str, "The `sub` of this user's tokens."),
    ("--modality", "modalities", str, "Limit: studies of this modality."),
    ("--patient", "patients", str, "Limit: the patient with this Patient ID."),
    ("--destination", "destinations", str, "Limit: destinations of a C-MOVE, by AE title."),
    ("--attribute", "attributes", str, "Limit: attributes that a query returns, by keyword."),
)
_LIMITS: Final = frozenset({"modalities", "patients", "destinations", "attributes"})
_NONE: Final = ("none",)


def user_options(function: F) -> F:
    """Add the options; the command gets them as keyword arguments, named as the fields of `User`."""
    function = click.option("--days", type=click.IntRange(0, 36_500), help="Limit: studies at most so many days old.")(
        function
    )
    for name, field, kind, text in reversed(_OPTIONS):
        function = click.option(name, field, type=kind, multiple=True, help=text)(function)
    return function


def described(user: User, given: dict[str, Any]) -> User:
    """The user with what was given in place of what it had. Raises InputError."""
    values: dict[str, Any] = {}
    for _, field, _, _ in _OPTIONS:
        said: Sequence[str] = given[field]
        if not said:
            continue
        if field in _LIMITS and tuple(said) == _NONE:
            values[field] = None
        else:
            values[field] = _MEANING.get(field, frozenset)([] if tuple(said) == _NONE else said)
    if given["days"] is not None:
        values["days"] = given["days"]
    return replace(user, **values)


def _certificates(said: Sequence[str]) -> frozenset[str]:
    return frozenset(_certificate(each) for each in said)


def _certificate(said: str) -> str:
    """The hash of the public key in a PEM file, or what was said where that is no path."""
    if " | " in said or re.fullmatch(r"[0-9a-f]{64}", said):
        return said
    from cryptography import x509

    from coffer.server.tls.peer_certificate import spki_sha256

    try:
        return spki_sha256(x509.load_pem_x509_certificate(Path(said).read_bytes()))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{said} is no certificate in a PEM file",
            hint="give a PEM file, a SHA-256 of 64 hex digits, or ISSUER | DNS:NAME",
        ) from error


def _attributes(said: Sequence[str]) -> frozenset[int]:
    from coffer.index.dicom.keywords import closest, tag_of

    tags = {word: tag_of(word) for word in said}
    for word, tag in tags.items():
        if tag is None:
            near = closest(word)
            raise InputError(
                f"{word} is no attribute of DICOM",
                hint=f"did you mean {near}?" if near else "give a keyword: PatientID",
            )
    return frozenset(tag for tag in tags.values() if tag is not None)


_MEANING: Final[dict[str, Callable[[Sequence[str]], Any]]] = {
    "roles": lambda said: frozenset(map(Role, said)),
    "certificates": _certificates,
    "attributes": _attributes,
}
