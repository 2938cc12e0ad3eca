"""Signed notes as files keep them: a history split into its notes, and what a checkpoint states. No key is needed."""

from __future__ import annotations

import base64
import re

_NOTE = re.compile(rb"[^\n\0]+\n[0-9]+\n[^\n\0]+\n\n(?:\xe2\x80\x94 [^\n\0]+\n)+")
_STATEMENT = re.compile(rb"coffer/signing-key/v1\n(?:[^\n]+\n){6}\n(?:\xe2\x80\x94 [^\n\0]+\n)+")


def split(history: bytes) -> list[bytes]:
    """The complete notes of a history of checkpoints, in order."""
    return _NOTE.findall(history)


def endorsements(data: bytes) -> list[bytes]:
    """The complete notes of a file of endorsements, in order."""
    return _STATEMENT.findall(data)


def stated(note: bytes) -> tuple[int, bytes]:
    """Number of records and root that a checkpoint states."""
    _, size, text, *_ = note.split(b"\n")
    return int(size), base64.b64decode(text)
