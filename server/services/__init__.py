"""The use cases: store, find, retrieve, import and export, behind the Protocols of `api`.

Rule: imports no door; a failure is a CofferError, which each door maps to its own codes.
"""
