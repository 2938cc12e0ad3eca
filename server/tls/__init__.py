"""TLS for both doors and for destinations: the process that holds the private key, and what is said about it.

Rule: no module here, and nothing that they import, parses DICOM: the process that ends TLS must be small enough to be
trusted with the key (docs/adr/0032). It passes clear bytes on without looking at them, and grants nothing.
"""
