"""The compression dictionary for data set headers: a file of made-up values that is part of the format.

Rule: it never changes; a new dictionary gets a new number and a new coding method. None of its bytes come from a
patient, so how well a header compresses reveals nothing about one (`tests/vectors/make_dictionary.py` makes it).
"""

from pathlib import Path
from typing import Final

__all__ = ["HEADERS"]

HEADERS: Final = Path(__file__).with_name("dictionary-1.bin").read_bytes()
