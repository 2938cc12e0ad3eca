"""Erasure of studies by destroying their keys: approvals, the shred, its completion, and certificates of it."""
