"""Bytes on their way in: what was taken stays, what is added follows, however it comes."""

from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.body.receive_buffer import ReceiveBuffer
from coffer.archive.codec.frames import FRAME_BYTES

# Lengths around a stretch and far below it; contents that tell where they came from.
SIZES = st.one_of(st.integers(0, 70_000), st.integers(FRAME_BYTES - 2, FRAME_BYTES + (300 << 10)))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "take", "reserve"]), SIZES), max_size=30)
SOURCE = b"".join(n.to_bytes(4, "big") for n in range(400_000))


@given(STEPS)
def test_it_is_a_queue(steps: list[tuple[str, int]]) -> None:
    inflow, held, taken = ReceiveBuffer(), bytearray(), list[tuple[memoryview, bytes]]()
    for number, (step, size) in enumerate(steps):
        if step == "add":
            data = SOURCE[number : number + size]
            inflow.add(data)
            held += data
        elif step == "take":
            length = min(size, len(held))
            taken.append((inflow.take(length), bytes(held[:length])))
            del held[:length]
        else:
            inflow.reserve(size)
        assert len(inflow) == len(held)
        assert inflow.view(0, len(held) + 9) == held
        assert inflow.view(5, 70) == held[5:70]
    assert all(view == copy for view, copy in taken)  # nothing was moved under whoever holds it


def test_nothing_is_left_of_what_was_cleared() -> None:
    inflow = ReceiveBuffer()
    inflow.add(b"abc")
    inflow.clear()
    assert not len(inflow)
    inflow.add(b"d")
    assert inflow.take(1) == b"d"
