"""Records, segments, chain and tree hashes: bytes to values and back.

Rule: pure but for reading from a descriptor that it is handed.
"""
