"""What the index keeps of one object: whose it is, its attributes, the day its retention counts from."""
