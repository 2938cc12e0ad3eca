"""Where the bytes of an archive are: the folder and its names, the writer's lock, the free space.

Rule: knows names and sizes, never formats.
"""
