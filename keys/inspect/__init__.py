"""Inspect a keyring without opening any of its keys."""
