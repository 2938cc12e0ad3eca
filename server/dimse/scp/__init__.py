"""The DIMSE services as SCP: one module each."""
