"""What an operator has to state for an act that is kept for ever: a reason.

Rule: it is checked for presence and length only. Nobody can check whether it is true.
"""

from typing import Final

from coffer.keys.errors import InputError

__all__ = ["require_reason"]

_LONGEST_REASON: Final = 1000


def require_reason(what: str, reason: str) -> None:
    """Raise InputError if the reason is blank or too long."""
    if not reason.strip() or len(reason) > _LONGEST_REASON:
        raise InputError(
            f"{what} needs a reason of at most {_LONGEST_REASON} characters",
            hint="give --reason TEXT; it is kept permanently, so write no patient's name into it",
        )
