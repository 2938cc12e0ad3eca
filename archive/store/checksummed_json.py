"""Small JSON files that say of themselves whether they are what was written: the value, then a line with its SHA-256.

Rule: whatever was flipped, cut or edited in one of them is no value. The sum finds accidents; who edits the file on
purpose can sum it again. It reads and writes no file.
"""

import hashlib
import json
from typing import Any, Final

from coffer.keys.errors import FormatError

__all__ = ["parse", "serialize"]

_SUM_BYTES: Final = 65  # hex digits and a newline


def serialize(value: object) -> bytes:
    """The file's bytes: JSON indented by one blank, a newline, 64 hex digits of its SHA-256, a newline."""
    text = json.dumps(value, indent=1).encode() + b"\n"
    return text + hashlib.sha256(text).hexdigest().encode() + b"\n"


def parse(data: bytes) -> Any:
    """The value. Raises FormatError for any bytes that `serialize` did not write."""
    text, told = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    if told != hashlib.sha256(text).hexdigest().encode() + b"\n":
        raise FormatError("it is not what was written: its sum differs")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("it is not what was written: it is no JSON, whatever its sum says") from error
