"""What guards an epoch's key: a key file, a PKCS#11 token or AWS KMS, behind one Protocol (`base.KekProvider`).

Rule: a provider knows epochs by number and nothing of the keyring.
"""
