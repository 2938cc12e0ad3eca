"""`coffer keys`, one command per module."""
