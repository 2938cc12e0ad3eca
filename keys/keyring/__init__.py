"""The keyring: its rows, what they mean, and every change of them.

Rule: knows study keys and epochs, never DICOM or the log.
"""
