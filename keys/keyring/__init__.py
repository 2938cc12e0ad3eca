"""The keyring: its rows, their meaning, and every change to them.

Rule: knows study keys and epochs, never DICOM or the log.
"""
