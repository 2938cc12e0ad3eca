"""Backups of the open archive's folder and keyring: where they go, what of the host belongs to them, and the way back.

Rule: a backup opens no key. It never reads key files, PINs, passphrases or shares: who has a copy needs a key besides.
"""
