"""Compiles the codec's kernel while Coffer is installed or its wheel is built; everything else is in pyproject.toml.

The library needs nothing of Python and nothing of the C library, so one serves all: `py3-none-manylinux…` and musl. The
compiler is ziglang's, a wheel, because it is the same everywhere and the faster one; where it is not installed, the
machine's own. Without either, or if compiling fails, Coffer is installed without the library, which changes no byte of
what it stores: `coffer status` says so.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

TOP: Final = Path(__file__).resolve().parent
NATIVE: Final = TOP / "archive/codec/native"
# What the library runs on: every processor of its kind, and every C library. Later vector instructions gained nothing.
ZIG_TARGETS: Final = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
TAGS: Final = "manylinux_2_17_{0}.musllinux_1_1_{0}"
FLAGS: Final = ["-std=c11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-nostdlib", "-Wno-psabi", "-s"]
MACHINE: Final = platform.machine()


def compiler() -> list[str]:
    """The command of the compiler to use, empty if there is none."""
    if chosen := os.environ.get("CC"):
        return chosen.split()
    if MACHINE in ZIG_TARGETS and importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", ZIG_TARGETS[MACHINE], "-mcpu=baseline"]
    return next(([found] for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), [])


def needed() -> list[str]:
    """What pip has to install before it builds: a compiler, where there is none and one can be had."""
    if sys.platform != "linux" or MACHINE not in ZIG_TARGETS or compiler():
        return []
    return tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["coffer"]["compiler"]


def file_name() -> str:
    """The library's name, which has the hash of its source; asked of the module that loads it, without its package."""
    spec = importlib.util.spec_from_file_location("library", NATIVE / "library.py")
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    return library.file_name(MACHINE)


class BuildKernel(build_ext):
    """Makes the library; without one, says so and goes on."""

    def get_ext_filename(self, fullname: str) -> str:
        """Where the library goes, as a path below the folder of packages."""
        return str(Path(*fullname.split(".")).with_name(file_name()))

    def build_extension(self, ext: Extension) -> None:
        """One call of the compiler. A library whose name is right already was made from the same source."""
        out = Path(self.get_ext_fullpath(ext.name))
        out.parent.mkdir(parents=True, exist_ok=True)
        for stale in NATIVE.glob("kernel-*.so"):
            if stale.name != out.name:
                stale.unlink()
        with_compiler = compiler()
        made = out.with_suffix(".part")
        try:
            if not with_compiler:
                raise FileNotFoundError("there is no compiler")
            subprocess.run([*with_compiler, *FLAGS, "-o", str(made), *ext.sources], check=True, cwd=TOP)
        except (OSError, subprocess.CalledProcessError) as error:
            made.unlink(missing_ok=True)
            print(f"Coffer is built without its compiled codec, and will be slower: {error}", file=sys.stderr)
            return
        made.replace(out)

    def get_outputs(self) -> list[str]:
        """What was really made."""
        return [path for path in super().get_outputs() if Path(path).exists()]


class AnyPython(bdist_wheel):
    """A wheel for every Python 3, and if the library is in it, for one kind of processor."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tags of the wheel's name (PEP 425, 600, 656)."""
        has_library = any(Path(self.bdist_dir or ".").rglob("kernel-*.so"))
        is_portable = has_library and "ziglang" in compiler()
        linux = TAGS.format(MACHINE) if is_portable else super().get_tag()[2]
        return "py3", "none", linux if has_library else "any"


commands: dict[str, Any] = {"build_ext": BuildKernel, "bdist_wheel": AnyPython}
setup(
    ext_modules=[Extension("coffer.archive.codec.native.kernel", ["archive/codec/native/kernel.c"], optional=True)],
    cmdclass=commands,
    setup_requires=needed(),
)
