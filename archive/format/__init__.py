"""Records, segments, chain and tree hashes: bytes to values and back.

Rule: pure, except that it reads from file descriptors it is given.
"""
