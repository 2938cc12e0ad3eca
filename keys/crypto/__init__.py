"""The primitives, pure: AEAD, derivation, signatures, key shares, and the known answers that each is tested against.

Rule: no file, no clock; randomness comes from the caller.
"""
