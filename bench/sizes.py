"""Print how long the code is: the median file of each package and the longest functions.

It reads the tree of git, or the folder where there is no git, and judges nothing: the caps stand in CONTRIBUTING.md.
"""

import argparse
import ast
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("keys", "archive", "index", "server")


class Function(NamedTuple):
    """One function with its length in lines, decorators and docstring included."""

    lines: int
    name: str
    place: str


def functions(path: Path) -> Iterator[Function]:
    """Yield every function and method of a source file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            yield Function((node.end_lineno or start) - start + 1, node.name, f"{path.relative_to(ROOT)}:{start}")


def line_count(path: Path) -> int:
    """Lines of a file, blank ones and comments included."""
    return len(path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Print one table of files and one of functions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--top", type=int, default=10, help="how many of the longest functions and files to list")
    top = parser.parse_args().top
    everything: list[Path] = []
    print(f"{'package':<10}{'files':>7}{'lines':>8}{'median':>8}{'longest':>9}")
    for package in (*PACKAGES, "tests", "bench"):
        files = sorted((ROOT / package).rglob("*.py"))
        counts = [line_count(f) for f in files] or [0]
        print(f"{package:<10}{len(files):>7}{sum(counts):>8}{statistics.median(counts):>8g}{max(counts):>9}")
        everything += files if package in PACKAGES else []
    counts = [line_count(f) for f in everything]
    lengths = sorted((fn for f in everything for fn in functions(f)), reverse=True)
    print(
        f"\nproduct: median file {statistics.median(counts):g} lines, median function "
        f"{statistics.median([fn.lines for fn in lengths] or [0]):g} lines"
    )
    print("\nlongest files")
    for lines, path in sorted(((line_count(f), f) for f in everything), reverse=True)[:top]:
        print(f"{lines:>6}  {path.relative_to(ROOT)}")
    print("\nlongest functions")
    for fn in lengths[:top]:
        print(f"{fn.lines:>6}  {fn.name}  {fn.place}")


if __name__ == "__main__":
    main()
