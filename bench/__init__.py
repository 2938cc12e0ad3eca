"""Benchmarks of Coffer, beside other DICOM servers and alone."""
