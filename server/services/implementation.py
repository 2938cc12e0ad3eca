"""How Coffer identifies itself in associations (PS3.7 D.3.3.2) and in the Part 10 files that it writes (PS3.10 7.1)."""

from typing import Final

# Derived from a UUID (PS3.5 B.2), which needs no registered arc.
IMPLEMENTATION_CLASS_UID: Final = "2.25.332730774979281062471161810229121559059"
IMPLEMENTATION_VERSION_NAME: Final = "COFFER_0_1"  # up to 16 characters (SH)
