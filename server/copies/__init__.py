"""Which copies there are of the keyring and of what opens it, and how long each of them counts.

Rule: reads and decides; copies are made by people and backups, and registered by use cases.
"""
