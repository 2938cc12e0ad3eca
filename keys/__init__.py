"""Ciphers, the key hierarchy, the keyring, key providers, durable files and checkpoint signing: the lowest floor.

Rule: imports nothing of the other floors and knows nothing of DICOM. Errors of the whole product are in `errors`.
Byte layouts: FORMAT.md beside this file.
"""
