"""The index: what is in the archive, found by the words of DICOM, readable by nobody without the keys.

`elements`, `charset`, `values`, `walk`, `entry` read headers; `attributes`, `matching`, `query` know PS3.4; `rows`,
`tables`, `store` keep sealed rows; `index` is the whole; `rebuild` makes it from the log. FORMAT.md describes the file.
The index is disposable: log and keyring are the archive.
"""
