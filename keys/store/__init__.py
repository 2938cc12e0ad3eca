"""The stores that a keyring can live in: rows of bytes under keys of bytes, with the feed of removed keys and locks.

Rule: knows where a row counts and what a change does to the store's own rows; never what a study's row means.
"""
