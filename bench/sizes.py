"""The sizes of folders, files and functions: exit code 1 if one exceeds a cap.

Caps (CONTRIBUTING.md): 15 modules a folder and 60 lines a function of the product, 400 lines a file, tests included.
"""

import argparse
import ast
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("keys", "archive", "index", "server")
MODULES, LINES, FUNCTION_LINES = 15, 400, 60
P90_GOAL, DOCUMENTED_GOAL = 20, 0.98


class Function(NamedTuple):
    """One function with its length in lines: with the docstring, without decorators (a command's help text)."""

    lines: int
    name: str
    place: str
    is_public: bool
    is_documented: bool


def functions(path: Path) -> Iterator[Function]:
    """Yield every function and method of a source file. Nested functions and members of private classes need no
    docstring and count as private."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(below)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for below in ast.walk(node)
        if below is not node
    }
    hidden = {
        id(below)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.startswith("_")
        for below in node.body
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            public = not node.name.startswith("_") and id(node) not in inner | hidden
            yield Function(
                (node.end_lineno or node.lineno) - node.lineno + 1,
                node.name,
                f"{path.relative_to(ROOT)}:{node.lineno}",
                public,
                ast.get_docstring(node) is not None,
            )


def line_count(path: Path) -> int:
    """Return the number of lines of a file, including blank lines and comments."""
    return len(path.read_text(encoding="utf-8").splitlines())


def beyond_the_caps() -> list[str]:
    """Return a sentence for each folder, file and function that is larger than CONTRIBUTING.md allows."""
    product = [path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))]
    tests = sorted((ROOT / "tests").rglob("*.py"))
    modules = Counter(path.parent for path in product if path.name != "__init__.py")
    lines = {path: line_count(path) for path in (*product, *tests)}
    return [
        *(f"{at.relative_to(ROOT)}/ has {n} modules, more than {MODULES}" for at, n in modules.items() if n > MODULES),
        *(f"{at.relative_to(ROOT)} has {n} lines, more than {LINES}" for at, n in lines.items() if n > LINES),
        *(
            f"{fn.name} in {fn.place} has {fn.lines} lines, more than {FUNCTION_LINES}"
            for path in product
            for fn in functions(path)
            if fn.lines > FUNCTION_LINES
        ),
    ]


def main() -> None:
    """Print the tables, then what exceeds a cap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--top", type=int, default=10, help="how many of the longest functions and files to list")
    top = parser.parse_args().top
    everything: list[Path] = []
    print(f"{'package':<10}{'files':>7}{'lines':>8}{'median':>8}{'longest':>9}")
    for package in (*PRODUCT, "tests", "bench"):
        files = sorted((ROOT / package).rglob("*.py"))
        counts = [line_count(f) for f in files] or [0]
        print(f"{package:<10}{len(files):>7}{sum(counts):>8}{statistics.median(counts):>8g}{max(counts):>9}")
        everything += files if package in PRODUCT else []
    longest_first = sorted((fn for f in everything for fn in functions(f)), reverse=True)
    _summary([line_count(f) for f in everything], longest_first)
    print("\nlongest files")
    for lines, path in sorted(((line_count(f), f) for f in everything), reverse=True)[:top]:
        print(f"{lines:>6}  {path.relative_to(ROOT)}")
    print("\nlongest functions")
    for fn in longest_first[:top]:
        print(f"{fn.lines:>6}  {fn.name}  {fn.place}")
    found = beyond_the_caps()
    print("\n" + "\n".join(found or ["nothing exceeds a cap"]))
    sys.exit(bool(found))


def _summary(file_lines: list[int], longest_first: list[Function]) -> None:
    lengths = [fn.lines for fn in longest_first]
    public = [fn for fn in longest_first if fn.is_public]
    documented = sum(fn.is_documented for fn in public) / len(public)
    p90 = statistics.quantiles(lengths, n=10)[-1]
    print(f"\nmedian file {statistics.median(file_lines):g} lines, median function {statistics.median(lengths):g}")
    print(f"functions: p90 {p90:g} lines (goal at most {P90_GOAL})")
    print(f"public functions with a docstring: {documented:.1%} of {len(public)} (goal at least {DOCUMENTED_GOAL:.0%})")
    for fn in public:
        if not fn.is_documented:
            print(f"    none: {fn.name}  {fn.place}")


if __name__ == "__main__":
    main()
