"""A keyring looked at without any of its keys."""
