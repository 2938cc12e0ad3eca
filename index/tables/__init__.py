"""The sealed rows of the index, and how one object more or less changes them."""
