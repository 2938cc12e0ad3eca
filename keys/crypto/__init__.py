"""Pure cryptographic primitives: AEAD, key derivation, signatures, key shares, and their known-answer tests.

Rule: no files, no clock; callers inject randomness.
"""
