"""The lowest floor: ciphers, the key hierarchy, the keyring, key providers, durable files and checkpoint signing.

Rule: imports nothing from the other floors and knows nothing of DICOM. The whole product's errors are in `errors`.
Byte layouts: FORMAT.md beside this file.
"""
