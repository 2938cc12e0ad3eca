"""The tables of events in archive/FORMAT.md against the classes."""

from bench.events import PAGE, written


def test_the_tables_are_those_of_the_classes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "run: python -m bench.events --write"
