"""Settings: their types, how a file is found and read, and the page that documents them.

Rule: imports nothing of the server.
"""
