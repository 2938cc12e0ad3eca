"""The sealed body of one object: from received bytes to the ciphertext in a record, and back."""
