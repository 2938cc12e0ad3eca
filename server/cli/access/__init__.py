"""`coffer users` and `coffer access`, one command group per module."""
