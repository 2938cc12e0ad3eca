"""`coffer shred` and `coffer hold`, one command per module."""
