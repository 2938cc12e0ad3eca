"""The codec's arithmetic in C: its source, how it is found, and how it is called.

Rule: the library writes and reads the bytes that the numpy modules above it do; it holds no state, and not the global
lock.
"""
