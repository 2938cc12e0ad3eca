"""The auditor's two programs, as modules and as an auditor starts them."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "docs" / "auditor" / "verify_coffer.py"
PROOFS = PROGRAM.with_name("verify_proof.py")


def load(program: Path) -> ModuleType:
    """A program as a module; the second one imports the first."""
    module = ModuleType(program.stem)
    sys.modules[program.stem] = module
    exec(compile(program.read_text(encoding="utf-8"), str(program), "exec"), module.__dict__)
    return module


AUDITOR, PROVER = load(PROGRAM), load(PROOFS)


def run(*args: object, code: int = 0, program: Path = PROGRAM) -> str:
    """The program as an auditor starts it: alone, with no packages at hand."""
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-S", str(program), *map(str, args)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    return done.stdout


def prove(path: Path, vkey: str, *args: object, code: int = 0) -> str:
    """The program for proofs and certificates."""
    return run(path, "--vkey", vkey, *args, code=code, program=PROOFS)
