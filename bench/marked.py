"""What is between two marks of a page: every generated part of a document is put there by this."""

__all__ = ["with_part"]


def with_part(page: str, begin: str, end: str, part: str) -> str:
    """Return the page with `part` between its marks, which stay. Ends the program unless it has exactly one of each."""
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"the page needs exactly one {begin} and one {end}")
    head, rest = page.split(begin)
    return head + begin + part + end + rest.split(end)[1]
