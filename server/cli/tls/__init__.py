"""`coffer tls` and `coffer reload`, one command per module."""
