"""The DICOM door: associations over TCP, and the DIMSE services of an archive.

It reaches data only through the Protocols in `services`, so that no message can bypass the access decision.
"""
