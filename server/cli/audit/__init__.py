"""`coffer audit`: who did what with which objects."""
