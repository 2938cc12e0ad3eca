"""Where the bytes of an archive lie: the folder and its names, the writer's lock, the room that is left.

Rule: knows names and sizes, never formats.
"""
