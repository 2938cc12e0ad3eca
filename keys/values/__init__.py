"""What rows of the keyring say, as values that every floor may deal with: epochs, waiting events, officers' records.

Rule: pure. It knows the bytes of these rows, never a store, and opens nothing that is sealed.
"""
