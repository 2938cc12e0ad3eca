"""Files that survive a power cut: written whole, appended, locked, opened below a folder that others may write to.

Rule: knows bytes and names, never what they mean; no key material passes through its messages.
"""
