"""Writes the golden encodings of events, one of each class: `python -m tests.vectors.make_events`.

The committed copy is tests/vectors/events/events.json. What is in it never changes: a changed event gets a further
version, and a further line.
"""

import json
from pathlib import Path

from coffer.archive.events.codec import encode
from tests.archive.events.samples import SAMPLES

FILE = Path(__file__).parent / "events" / "events.json"


def golden() -> dict[str, dict[str, object]]:
    """The record kind and the JSON text of each sample, by code and version."""
    return {f"{each.code} {each.version}": {"kind": int(each.kind), "json": encode(each).decode()} for each in SAMPLES}


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
