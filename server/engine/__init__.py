"""The open archive: folder, lock, keys, log and index, opened in the right order and kept in agreement.

Rule: knows no door and no policy.
"""
