"""The index: what is in the archive, searchable by DICOM attributes, unreadable without the keys.

`dicom` reads data sets and identifiers, `instance` says what is kept of an object, `tables` keeps sealed rows in a
store of `backends`, `query` answers; `index` is the whole and `rebuild` makes it from the log. FORMAT.md describes the
file. The index is disposable: log and keyring are the archive.
"""
