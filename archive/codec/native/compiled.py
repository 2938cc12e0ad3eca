"""The codec's arithmetic by the compiled library: one call for each direction, which lets go of the global lock.

Rule: sizes go with every pointer, and the library checks them; what it refuses is an error here, never a guess.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Final

from coffer.archive.codec.kernels import LEAST_STREAMS, PixelShape
from coffer.archive.codec.pool import Pool
from coffer.keys.errors import FormatError

_MOST_STREAMS: Final = LEAST_STREAMS + 4
_WORKSPACE: Final = 4 << 20  # four times the largest frame; only what is used of it becomes memory
_BAD_MAP: Final = -3  # kernel.c; everything else it refuses was checked before
_Sizes: Final = ctypes.c_uint32 * _MOST_STREAMS
_Streams: Final = ctypes.c_char_p * _MOST_STREAMS

_POINTER, _SIZE, _UNSIGNED, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int
_ARGUMENTS: Final[dict[str, tuple[Any, ...]]] = {
    "coffer_split": (_POINTER, _SIZE, _UNSIGNED, _INT, _SIZE, _SIZE, _POINTER, _SIZE, _POINTER, _POINTER),
    "coffer_sizes": (ctypes.c_char_p, _SIZE, _SIZE, _UNSIGNED, _POINTER),
    "coffer_join": (
        _POINTER, _POINTER, _SIZE, _UNSIGNED, _INT, _SIZE, _SIZE, _INT, _POINTER, _SIZE, ctypes.c_char_p,
    ),
}  # fmt: skip
# A bytes object whose content is not set yet, as extension modules make one: it is filled before anybody sees it.
_new_bytes: Final = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes, _new_bytes.restype = (ctypes.c_void_p, ctypes.c_ssize_t), ctypes.py_object


class _Workspace:
    """Memory that a call works in, reused from frame to frame: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        memory = bytearray(_WORKSPACE)
        self.view = memoryview(memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.starts, self.sizes = _Sizes(), _Sizes()


class Compiled:
    """`kernels.Kernels` by a loaded library. Raises AttributeError for a library that lacks a function."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._workspaces = Pool(_Workspace)
        for name, arguments in _ARGUMENTS.items():
            getattr(library, name).argtypes = arguments
        self._split, self._sizes, self._join = (getattr(library, name) for name in _ARGUMENTS)

    def split(
        self, data: bytes | bytearray | memoryview, shape: PixelShape, compress: Callable[[memoryview], bytes]
    ) -> tuple[int, list[bytes]]:
        """See `kernels.Kernels`."""
        import numpy as np  # here: a process that only reads does without

        source = np.frombuffer(data, np.uint8)  # its address, whether it may be written or not
        _, word_bytes, big_endian, width, step = shape
        with self._workspaces.one() as work:
            choice: int = self._split(
                source.ctypes.data, len(source), word_bytes, big_endian, width, step,
                work.address, _WORKSPACE, work.starts, work.sizes,
            )  # fmt: skip
            if choice < 0:
                raise ValueError(f"the kernel refuses pixels: {choice}")
            view, count = work.view, LEAST_STREAMS + word_bytes
            places = zip(work.starts[:count], work.sizes[:count], strict=True)
            return choice, [compress(view[start : start + size]) if size else b"" for start, size in places]

    def join(
        self, class_map: bytes, shape: PixelShape, choice: int, inflate: Callable[[list[int]], list[bytes]]
    ) -> bytes:
        """See `kernels.Kernels`."""
        size, word_bytes, big_endian, width, step = shape
        sizes = _Sizes()
        _require(self._sizes(class_map, len(class_map), size, word_bytes, sizes))
        streams = [class_map, *inflate(sizes[1 : LEAST_STREAMS + word_bytes])]
        out: bytes = _new_bytes(None, size)
        given = _Sizes(*map(len, streams))
        with self._workspaces.one() as work:
            _require(
                self._join(
                    _Streams(*streams), given, size, word_bytes, big_endian, width, step, choice,
                    work.address, _WORKSPACE, out,
                )
            )  # fmt: skip
        return out


def _require(result: int) -> None:
    if result == _BAD_MAP:
        raise FormatError("a coded frame has an impossible map")
    if result:
        raise ValueError(f"the kernel refuses a frame: {result}")
