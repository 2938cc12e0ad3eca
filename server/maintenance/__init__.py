"""Maintenance of an archive: offline inspection, the scrub, the deep check, objects with problems."""
