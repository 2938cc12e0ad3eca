"""The index: what is in the archive, found by the words of DICOM, readable by nobody without the keys.

`elements`, `charset`, `values`, `walk`, `entry` read headers; `attributes`, `matching`, `query` know PS3.4; `rows`,
`tables`, `store` keep sealed rows; `index` is the whole; `rebuild` makes it from the log. FORMAT.md describes the file.
The index is disposable: log and keyring are the archive.
"""

from index.elements import Header, Identifier, decode_identifier, scan
from index.entry import Identity, InstanceEntry, extract
from index.identity import PartId, Patient, Rules
from index.index import Index, IndexStats
from index.locate import Located
from index.objectmeta import ObjectMeta
from index.parts import Part, StoredVersion
from index.rows import Version
from index.walk import Limits

__all__ = [
    "Header",
    "Identifier",
    "Identity",
    "Index",
    "IndexStats",
    "InstanceEntry",
    "Limits",
    "Located",
    "ObjectMeta",
    "Part",
    "PartId",
    "Patient",
    "Rules",
    "StoredVersion",
    "Version",
    "decode_identifier",
    "extract",
    "scan",
]
