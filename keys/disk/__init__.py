"""Files that survive a power cut: written atomically, appended, locked, opened inside folders that others can write to.

Rule: knows bytes and names, never their meaning; no key material appears in its messages.
"""
