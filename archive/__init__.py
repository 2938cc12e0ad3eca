"""The log and what lies in it: records, segments, chain, checkpoints, recovery, verification, and sealed bodies.

It takes opaque bytes and gives verified bytes; it knows nothing of DICOM, databases or the network.
"""
