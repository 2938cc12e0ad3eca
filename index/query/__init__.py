"""Queries and retrievals over the rows (PS3.4 C.4, C.6)."""
