"""Key and value transactions below the rows.

Rule: it knows bytes, never what a row means.
"""
