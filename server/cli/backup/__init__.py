"""`coffer backup` and `coffer restore`, one command per module."""
