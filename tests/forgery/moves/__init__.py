"""Everything that the attacker does to the folder, one named class for each kind of change.

Rule: a move needs no key; whatever else would betray it, it makes fit again with `tests.forgery.kit`.
"""

from typing import Final

from tests.forgery.moves import beside, records, rows, segments
from tests.forgery.moves.attacked import Attacked, CannotError, Move

__all__ = ["MOVES", "Attacked", "CannotError", "Move"]

MOVES: Final[tuple[Move, ...]] = (*records.MOVES, *segments.MOVES, *beside.MOVES, *rows.MOVES)
