"""Key and value transactions below the rows.

Rule: knows bytes, never what a row means.
"""
