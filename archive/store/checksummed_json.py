"""Small JSON files that detect corruption: the value, then a line with its SHA-256.

Rule: a file that was flipped, cut or edited anywhere has no value. The checksum finds accidents, not malice: anyone can
edit the file and compute it again. Nothing here reads or writes a file.
"""

import hashlib
import json
from typing import Any, Final

from coffer.keys.errors import FormatError

__all__ = ["parse", "serialize"]

_CHECKSUM_BYTES: Final = 65  # hex digits and a newline


def serialize(value: object) -> bytes:
    """The file's bytes: JSON indented by one space, a newline, 64 hex digits of its SHA-256, a newline."""
    text = json.dumps(value, indent=1).encode() + b"\n"
    return text + hashlib.sha256(text).hexdigest().encode() + b"\n"


def parse(data: bytes) -> Any:
    """The value. Raises FormatError for any bytes that `serialize` did not write."""
    text, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if checksum != hashlib.sha256(text).hexdigest().encode() + b"\n":
        raise FormatError("it is not what was written: its checksum differs")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("it is not what was written: it is not JSON, although its checksum matches") from error
