"""The log and what lies in it: records, segments, chain, checkpoints, recovery, verification, and sealed bodies.

`log` writes and `reader` reads; the rooms below them each know one thing.

Rule: takes opaque bytes and gives verified bytes; knows nothing of DICOM, databases or the network.
"""
