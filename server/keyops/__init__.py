"""Acts on keys: epochs, rekeys, shares, and holding the keyring against the log."""
