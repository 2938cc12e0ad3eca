"""Looking after an archive: offline looks, the scrub, the deep check, objects with problems."""
