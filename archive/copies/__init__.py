"""Copies of the archive at targets that are not trusted: snapshots, what they hold, and the way back.

Rule: opens no key, and believes a target nothing that a hash or a signature of the archive does not prove.
"""
