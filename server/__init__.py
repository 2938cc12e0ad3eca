"""The server and its command line: doors over use cases over one open archive.

Rule: what stands higher imports what stands lower, room by room; `pyproject.toml` has the order, and CI checks it.
"""
