"""The codec on the two real series of the shared data: stored share, MB/s in and out, one core.

    python bench/codec_bench.py

Throughput is data set bytes per CPU second; frames are coded and decoded one by one, as in a store and a retrieval.
"""

import os
import time
from collections import Counter
from itertools import takewhile
from pathlib import Path

import pydicom

from coffer.archive.body.allocator import keep_blocks
from coffer.archive.codec import frames
from coffer.archive.codec.layout import PixelLayout
from coffer.archive.codec.pixels import Filter

SHARED = Path(os.environ.get("COFFER_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SERIES = {"CT phantom": "neurolabusc-dcm_qa_ct/ct-phantom-140", "MR T1": "neurolabusc-dcm_qa_deident/mr-t1-196"}
Item = tuple[bytes, PixelLayout]
Frames = list[tuple[int, bytes]]


def load(path: Path) -> Item:
    """Return a file's bytes and the layout of its pixels."""
    content = path.read_bytes()
    ds = pydicom.dcmread(path)
    offset = content.rfind(ds.PixelData)
    return content, PixelLayout(offset, len(ds.PixelData), ds.Rows, ds.Columns, 1, ds.BitsAllocated, 1)


def encode(content: bytes, layout: PixelLayout) -> Frames:
    """Return every coded frame with its plain length."""
    view = memoryview(content)
    out = []
    for piece in takewhile(lambda p: p.start < len(content), frames.cuts(layout)):
        part = view[piece.start : piece.stop]
        out.append((len(part), frames.encode(part, piece.layout if piece.stop <= len(content) else None)))
    return out


def measure(items: list[Item]) -> tuple[float, float, float, str]:
    """Return the stored share, MB/s in, MB/s out, and how often each filter was chosen."""
    received = sum(len(content) for content, _ in items)
    started = time.process_time()
    coded = [encode(*item) for item in items]
    middle = time.process_time()
    for (content, _), done in zip(items, coded, strict=True):
        assert b"".join(frames.decode(frame, length) for length, frame in done) == content
    ended = time.process_time()
    stored = sum(len(frame) for done in coded for _, frame in done)
    chosen = Counter(Filter(f[1]).name for done in coded for _, f in done if f[0] == frames.PIXELS)
    filters = ", ".join(f"{name} {count}" for name, count in chosen.most_common())
    return stored / received, received / (middle - started) / 1e6, received / (ended - middle) / 1e6, filters


def main() -> None:
    """Print the table."""
    keep_blocks()
    print("| series | stored share | MB/s in | MB/s out | filters chosen |\n|---|---|---|---|---|")
    for name, folder in SERIES.items():
        items = [load(path) for path in sorted((SHARED / "data" / "real" / folder).glob("*.dcm"))]
        share, inward, outward, filters = measure(items)
        print(f"| {name}, {len(items)} objects | {share:.3f} | {inward:.0f} | {outward:.0f} | {filters} |")


if __name__ == "__main__":
    main()
