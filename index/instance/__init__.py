"""What the index keeps of one object: its patient, its attributes, the day its retention starts."""
