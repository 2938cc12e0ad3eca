"""Measurements of Coffer, beside its peers and alone."""
