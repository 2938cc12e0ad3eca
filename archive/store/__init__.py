"""Where the bytes of an archive are: the folder and its names, stores of segments, the writer's lock, the free space.

Rule: knows names and sizes, never formats.
"""
