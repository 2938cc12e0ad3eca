"""An examination of an installation for its administrator: what is wrong, what will be, and what to do about it."""
