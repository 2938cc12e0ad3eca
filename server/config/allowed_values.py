"""What a setting may be, in words: for the remedies of `server.config.load` and for the reference page.

Rule: the words come from the type that is checked, so that they cannot disagree with the check.
"""

from typing import Any, Final

from msgspec import inspect

from coffer.server.config.doors import AeTitle
from coffer.server.config.integrity import VerifierKey
from coffer.server.config.providers import Region, TokenLabel, Url, VariableName
from coffer.server.config.settings import CertificateName, Issuer
from coffer.server.config.tls import SpkiHash

__all__ = ["allowed", "example"]


def allowed(kind: Any) -> str:
    """What a value of an annotated type may be, in words."""
    return _in_words(inspect.type_info(kind))


def _pattern(info: inspect.Type) -> str:
    assert isinstance(info, inspect.StrType)
    return info.pattern or ""


_WORDS: Final = {
    _pattern(inspect.type_info(kind)): words
    for kind, words in (
        (AeTitle, "1 to 16 characters without backslash"),
        (VariableName, "an environment variable's name"),
        (TokenLabel, "up to 32 characters"),
        (Issuer, "up to 64 characters without backslash"),
        (Region, "an AWS region, for example eu-central-1"),
        (Url, "an http or https URL"),
        (CertificateName, "a host name or an address, or nothing"),
        (SpkiHash, "64 lower-case hex digits"),
        (VerifierKey, "a verifier key, `NAME+HASH+KEY`"),
    )
}


def _in_words(info: inspect.Type) -> str:  # noqa: PLR0911  one line per type is the shortest way to say it
    match info:
        case inspect.Metadata():
            return _in_words(info.type)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number from {info.ge} to {info.le}"
        case inspect.FloatType(gt=None):
            return f"a number from {info.ge} to {info.le}"
        case inspect.FloatType():
            return f"a number of seconds above {info.gt} and up to {info.le}"
        case inspect.LiteralType():
            return " or ".join(f'"{v}"' for v in info.values)
        case inspect.StrType(pattern=str(pattern)):
            return _WORDS[pattern]
        case inspect.DictType():
            return f"a table of AE titles, for each {_in_words(info.value_type)}"
        case inspect.StrType(min_length=None, max_length=int(most)):
            return f"up to {most} characters"
        case inspect.StrType():
            return "a host name or an address"
        case _:
            return "a path"


def example(kind: Any) -> str:
    """An example of a value, as TOML, for the remedy of a missing key."""
    words = allowed(kind)
    return '"PACS"' if "characters" in words else "104" if "number" in words else '"127.0.0.1"'
