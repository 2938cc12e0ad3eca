"""Operations on keys: epochs, rekeys, shares, and the check of the keyring against the log."""
