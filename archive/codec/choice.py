"""Who does the codec's arithmetic in this process: the compiled library where there is one, else numpy.

Rule: decided once, with the first frame of pixels or when somebody asks; both write the same bytes.
"""

from functools import cache
from typing import Final

from coffer.archive.codec.kernels import Kernels
from coffer.archive.codec.native import library

__all__ = ["REMEDY", "kernels", "why_pure"]

REMEDY: Final = "install the wheel for this machine, or a C compiler, and then Coffer again"


@cache
def _loaded() -> tuple[Kernels | None, str]:
    found = library.load()
    if isinstance(found, str):
        return None, found
    from coffer.archive.codec.native.compiled import Compiled

    return Compiled(found), ""


@cache
def kernels() -> Kernels:
    """The kernels of this process. numpy is imported with the first call if they need it."""
    compiled, _ = _loaded()
    if compiled is not None:
        return compiled
    from coffer.archive.codec.pure import Pure

    return Pure()


def why_pure() -> str:
    """Why this process codes pixels without the compiled library; empty if it has it."""
    return _loaded()[1]
