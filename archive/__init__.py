"""The log and its contents: records, segments, chain, checkpoints, recovery, verification, and sealed bodies.

`log` writes and `reader` reads; each package below them knows one thing.

Rule: takes opaque bytes and returns verified bytes; knows nothing of DICOM, databases or the network.
"""
