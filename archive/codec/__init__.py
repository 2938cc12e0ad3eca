"""Frames of a data set, coded without loss.

Rule: knows bytes and pixel layouts, and imports nothing else of the product but its errors.
"""
