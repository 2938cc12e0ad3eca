"""The sealed body of one object: from the bytes that arrive to the ciphertext in a record, and back."""
