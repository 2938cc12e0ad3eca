"""What somebody who writes the archive folder, and has no key, can compute: written from the FORMAT pages alone.

Rule: plain Python, SHA-256 and LMDB; it imports nothing of the product, and has no key to sign or seal with.
"""
