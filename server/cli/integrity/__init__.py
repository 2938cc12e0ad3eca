"""`coffer verify`, `scrub`, `repair`, `recover` and `checkpoint`."""
