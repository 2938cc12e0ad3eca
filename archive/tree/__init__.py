"""The transparency log over the records: tiles, checkpoints, proofs, and the signing keys (RFC 6962, C2SP).

Rule: knows hashes and signatures, never a body.
"""
