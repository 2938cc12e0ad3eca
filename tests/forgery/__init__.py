"""Somebody who writes the archive folder and has no key: what he can compute, what he changes, and what finds it."""
