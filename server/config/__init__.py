"""Settings: their types, how the file is found and read, and the page that documents them.

Rule: it imports nothing else of the server.
"""
