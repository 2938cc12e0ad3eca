"""What headers of data sets have in common, for the entropy coder: a file of made-up values that is part of the format.

Rule: it never changes; another one gets another number and another coding method. No byte of it comes from a patient,
so nothing of one can be told by how well a header is coded (`tests/vectors/make_dictionary.py` makes it).
"""

from pathlib import Path
from typing import Final

__all__ = ["HEADERS"]

HEADERS: Final = Path(__file__).with_name("dictionary-1.bin").read_bytes()
