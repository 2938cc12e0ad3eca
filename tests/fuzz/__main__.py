"""Fuzz one target with feedback from coverage: `python -m tests.fuzz --target pdu --runs 10000000`.

Needs atheris. Ends with an error at the first finding, whose input is written to the folder of `--found`; a finding
that is mended becomes a file of `tests/fuzz/vectors/TARGET/`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("error: atheris is not installed\nremedy: pip install atheris")

with atheris.instrument_imports(include=["coffer"]):
    from tests.fuzz.targets import TARGETS

VECTORS = Path(__file__).parent / "vectors"


def main() -> None:
    """Run; never returns."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--target", choices=sorted(TARGETS), required=True)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=int, default=4096, help="bytes of an input")
    parser.add_argument("--found", type=Path, default=Path.cwd(), help="folder for the input of a finding")
    wanted = parser.parse_args()
    target = TARGETS[wanted.target]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        options = [f"-runs={wanted.runs}", f"-seed={wanted.seed}", f"-max_len={wanted.longest}", "-timeout=20"]
        options += ["-rss_limit_mb=1024", f"-artifact_prefix={wanted.found}/", corpus]
        vectors = VECTORS / wanted.target
        atheris.Setup([sys.argv[0], *options, *([str(vectors)] if vectors.is_dir() else [])], target.run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
