"""Both kernels of the codec: each test of this folder runs with either."""

from collections.abc import Iterator

import pytest

from coffer.archive.codec import frames
from coffer.archive.codec.kernels import Kernels
from tests.archive.codec.both import BOTH


@pytest.fixture(params=BOTH, scope="module", autouse=True)
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """The kernels that frames are coded with."""
    chosen = BOTH[request.param]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "kernels", lambda: chosen)
        yield chosen
