"""The metadata beside a data set in its sealed body, as msgpack: enough to write a Part 10 file and to index again.

Rule: pure codec. Unknown fields are an error (another version wrote them); absent ones have defaults. It repeats
nothing from the data set, except the identity from the request.
"""

from __future__ import annotations

from typing import Final

import msgspec

from coffer.index.instance.order import Order
from coffer.keys.buffer import Buffer
from coffer.keys.errors import FormatError

__all__ = ["VERSION", "ObjectMeta"]

VERSION: Final = 3
_ID_BYTES: Final = 32


class ObjectMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Version 3. `received_ms` counts milliseconds since 1970 UTC; `file_meta` is group 0002 as received, if any.

    If the object was sealed again since, `order` is that of its first record and `original` the content id that it had
    there. `previous` is the content id, as first stored, of the version that was the newest when this one was stored.
    Of two versions of an instance the one with the higher order is newer.
    """

    transfer_syntax: str
    sop_class: str
    sop_instance: str
    study_uid: str
    source_ae: str
    received_ms: int
    file_meta: bytes | None = None
    preamble: bytes | None = None
    order: Order | None = None
    previous: bytes | None = None
    original: bytes | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a content id of another length."""
        if any(each is not None and len(each) != _ID_BYTES for each in (self.previous, self.original)):
            raise ValueError("a content id has 32 bytes")

    def encode(self) -> bytes:
        """Return the msgpack map: key "v" first, then every field that differs from its default."""
        return _ENCODER.encode({"v": VERSION} | msgspec.to_builtins(self, builtin_types=(bytes,)))

    @staticmethod
    def decode(data: Buffer) -> ObjectMeta:
        """Return the meta. Raises FormatError for another version and for anything else."""
        try:
            fields = _DECODER.decode(data)
            if not isinstance(fields, dict) or fields.pop("v", None) != VERSION:
                raise FormatError("object meta has an unknown version", hint="it was written by another Coffer")
            return msgspec.convert(fields, ObjectMeta, builtin_types=(bytes,))
        except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise FormatError("object meta is not valid") from error


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder()
