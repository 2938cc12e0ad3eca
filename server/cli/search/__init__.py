"""`coffer find` and `coffer versions`, one command per module."""
