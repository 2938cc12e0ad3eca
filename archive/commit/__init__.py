"""The end of a log, where what is appended becomes part of it: behind one contract, in a folder and in memory.

Rule: knows whole groups as bytes, where they go and whether they count; never what a record is about, who signs, or
what time it is for a record.
"""
