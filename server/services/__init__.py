"""The use cases: store, find, retrieve, import and export, behind the Protocols of `api`.

Rule: imports no door; a failure is an error of ours, which each door says in its own codes.
"""
