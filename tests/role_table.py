"""The table of docs/security/roles.md: what each role may do, cell by cell."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/security/roles.md"
_ROWS = [re.split(r"\s*\|\s*", line.strip("| \n")) for line in PAGE.read_text().splitlines() if line.startswith("| ")]
_HEADER = next(row for row in _ROWS if row[0] == "Action")
ROLES = _HEADER[1:]
CELLS = {
    (row[0].strip("`"), role): cell
    for row in _ROWS[_ROWS.index(_HEADER) + 1 :]
    for role, cell in zip(ROLES, row[1:], strict=True)
}
ACTIONS = sorted({action for action, _ in CELLS})
OPEN = frozenset({"yes", "own, 24 h", "listing", "reports"})  # cells that permit something today
