"""The two kernels of the codec by name, for tests that run with either or compare them."""

from collections.abc import Callable
from functools import cache
from typing import Final

from coffer.archive.codec.choice import why_pure
from coffer.archive.codec.kernels import Kernels
from coffer.archive.codec.native import library
from coffer.archive.codec.native.compiled import Compiled
from coffer.archive.codec.pure import Pure
from tests.conftest import absent


@cache
def compiled() -> Compiled:
    """The compiled one; the test ends as `absent` says where nothing could compile it."""
    found = library.load()
    if isinstance(found, str):
        absent(f"the codec's library: {why_pure()}")
    return Compiled(found)


BOTH: Final[dict[str, Callable[[], Kernels]]] = {"numpy": cache(Pure), "compiled": compiled}
