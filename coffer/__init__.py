"""Coffer: an encrypted DICOM archive.

The four floors lie at the top of the repository, `keys` < `archive` < `index` < `server`; the links beside this file
make each importable as `coffer.keys` and so on, and by no other name (docs/adr/0024-one-import-root.md).
"""
