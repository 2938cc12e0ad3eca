"""Where secrets live in memory: pages that are locked and left out of dumps, and a type that cannot be printed."""
