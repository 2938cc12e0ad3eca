"""The open archive: folder, lock, keys, log and index, opened in the right order and kept in agreement.

Rule: it knows no door and no policy.
"""
