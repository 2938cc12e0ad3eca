"""Finds what is not as it was written, and mends nothing.

Rule: works without any key that opens a body.
"""
