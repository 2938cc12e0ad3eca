"""Key shares as text: to print, keep in an envelope, and type in again (pure). Format: FORMAT.md.

Rule: the seven lines of letters are the share; the text around them is for people, but must not contradict them. Each
line has its own check letters, so a typing error is found in its line.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
from hashlib import sha256
from typing import Final

from coffer.keys.crypto.shamir import SIZE, Group, Share
from coffer.keys.errors import InputError

__all__ = ["file_name", "parse", "render"]

BEGIN: Final = "-----BEGIN COFFER KEY SHARE-----"
END: Final = "-----END COFFER KEY SHARE-----"
LINES: Final = 7
PER_LINE: Final = 15
TAIL: Final = LINES * PER_LINE - SIZE  # bytes of SHA-256 over the share
_LINE: Final = re.compile(r"([1-7])[\s.:)]([A-Za-z0-9\s-]+)")
_FIELD: Final = re.compile(r"(Archive|Epoch|Group|Share|Made):(.*)")
_LOOKS_LIKE: Final = str.maketrans("018", "OIB")  # base32 uses no digits but 2 to 7
_CHECK_LABEL: Final = b"coffer/share-line/v1\x00"


def render(share: Share) -> str:
    """Return the share's text, ending with a newline."""
    data = share.encode()
    data += sha256(data).digest()[:TAIL]
    lines = [BEGIN, *(f"{name}: {value}" for name, value in _fields(share).items()), ""]
    for number in range(1, LINES + 1):
        part = data[(number - 1) * PER_LINE : number * PER_LINE]
        letters = base64.b32encode(part).decode() + _check(number, part)
        lines.append(f"{number} " + " ".join(letters[at : at + 4] for at in range(0, len(letters), 4)))
    return "\n".join([*lines, END, "", *_advice(share), ""])


def parse(text: str, name: str) -> Share:
    """Return the share in a text; messages call it `name`. Case, spaces and hyphens do not matter.

    Raises InputError naming the wrong or missing line, or the field that contradicts the share.
    """
    inside = text.partition(BEGIN)[2].partition(END)[0] if BEGIN in text else text
    parts: dict[int, bytes] = {}
    fields: dict[str, str] = {}
    for line in inside.splitlines():
        if found := _FIELD.fullmatch(line.strip()):
            fields[found[1]] = found[2].strip()
        elif found := _LINE.fullmatch(line.strip()):
            number = int(found[1])
            parts[number] = _part(number, found[2], name)
    missing = [str(number) for number in range(1, LINES + 1) if number not in parts]
    if missing:
        what = "is not a key share" if len(missing) == LINES else f"has no line {', '.join(missing)}"
        raise InputError(f"{name} {what}", hint=f"a share has {LINES} numbered lines of letters: copy them all")
    data = b"".join(parts[number] for number in range(1, LINES + 1))
    if sha256(data[:SIZE]).digest()[:TAIL] != data[SIZE:]:
        raise InputError(f"{name}: the lines are not all of the same share", hint="do not mix lines of two shares")
    try:
        share = Share.decode(data[:SIZE])
    except InputError as error:
        raise InputError(f"{name}: {error}", hint="use the Coffer release that made the share") from error
    for field, value in _fields(share).items():
        if fields.get(field, value) != value:
            raise InputError(
                f"{name} says {field} {fields[field]}, but its letters say {value}",
                hint="the text around the letters was edited, or two shares were mixed",
            )
    return share


def file_name(share: Share) -> str:
    """Return a file name that identifies the share: group, epoch, index and count."""
    of = share.of
    return f"coffer-share-{of.group.hex()}-epoch{of.epoch}-{share.index}of{of.count}.txt"


def _part(number: int, letters: str, name: str) -> bytes:
    wrong = InputError(f"{name}: line {number} is mistyped or damaged", hint="compare that line letter by letter")
    plain = "".join(letters.split()).replace("-", "").upper().translate(_LOOKS_LIKE)
    if len(plain) != PER_LINE * 8 // 5 + 4:
        raise wrong
    try:
        part = base64.b32decode(plain[:-4])
    except binascii.Error:
        raise wrong from None
    if _check(number, part) != plain[-4:]:
        raise wrong
    return part


def _check(number: int, part: bytes) -> str:
    """Return the four letters (20 bits) that check a line and its number."""
    return base64.b32encode(sha256(_CHECK_LABEL + bytes([number]) + part).digest()[:5]).decode()[:4]


def _fields(share: Share) -> dict[str, str]:
    of = share.of
    return {
        "Archive": of.archive_id.hex(),
        "Epoch": str(of.epoch),
        "Group": of.group.hex(),
        "Share": f"{share.index} of {of.count}, any {of.threshold} give the key",
        "Made": made(of),
    }


def made(of: Group) -> str:
    """Return when the shares were made, as ISO 8601 in UTC."""
    return dt.datetime.fromtimestamp(of.made_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _advice(share: Share) -> list[str]:
    of = share.of
    return [
        f"{of.threshold} of these {of.count} shares open every image of the archive. Keep this where no other is.",
        "Show it to nobody but the person who runs `coffer keys recover` or `coffer keys drill`.",
        f"It is good for key epoch {of.epoch} only; burn it when a newer one has taken its place.",
    ]
