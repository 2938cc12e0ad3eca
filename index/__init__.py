"""The index: what is in the archive, found by the words of DICOM, readable by nobody without the keys.

`dicom` reads data sets and identifiers, `instance` says what is kept of an object, `tables` keeps sealed rows over a
store of `backends`, `query` answers; `index` is the whole and `rebuild` makes it from the log. FORMAT.md has the file.
The index is disposable: log and keyring are the archive.
"""
