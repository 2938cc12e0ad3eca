"""What padding costs and hides: the sealed bodies of the two real series of the shared data, stored as a peer does.

    python -m bench.padding

For the published Padmé and up to two significant bits more, it prints the bytes that are added and how many lengths
remain. The row marked with a star is what `coffer.archive.body.padding` does.
"""

from collections.abc import Iterator

from bench.codec_bench import SERIES, SHARED
from bench.store_profile import fresh_archive, objects_of, put
from coffer.archive.body.padding import SHORTEST, padded_length
from coffer.archive.format.record import Kind

_MOST_OBJECTS = 10_000


def with_bits(used: int, more: int) -> int:
    """Return the length of Padmé with `more` significant bits than published."""
    exponent = used.bit_length() - 1
    unit = 1 << max(exponent - exponent.bit_length() - more, 0)
    return max(SHORTEST, -(-used // unit) * unit)


def used_lengths(folder: str) -> list[int]:
    """Return the bytes of every plain body of a series without its padding."""
    with fresh_archive() as services:
        for each in objects_of(SHARED / "data" / "real" / folder, _MOST_OBJECTS):
            put(services, *each)
        archive, out = services.archive, []
        for position, header in archive.reader.records():
            if header.kind == Kind.OBJECT:
                with archive.bodies.open(header.study_key_id, header.content_id, position) as body:
                    out.append(body.used)
        return out


def rows(name: str, used: list[int]) -> Iterator[str]:
    """Yield the table's rows for a series."""
    yield f"| {name} | not padded | | {len(set(used))} | {len(used)} |"
    for more in range(3):
        padded = [with_bits(each, more) for each in used]
        star = " *" if padded == list(map(padded_length, used)) else ""
        added = sum(padded) / sum(used) - 1
        yield f"| {name} | floor(log2 E) + {1 + more}{star} | {added:.2%} | {len(set(padded))} | {len(used)} |"


def main() -> None:
    """Print the table."""
    print("| series | S | added | distinct lengths | of objects |\n|---|---|---|---|---|")
    for name, folder in SERIES.items():
        print("\n".join(rows(name, used_lengths(folder))))


if __name__ == "__main__":
    main()
