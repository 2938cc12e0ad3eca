"""Finds what is no longer as it was written, and repairs nothing.

Rule: works without any key that opens a body.
"""
