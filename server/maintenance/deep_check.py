"""Open every kind of record with its key and check the content: what `coffer verify --level decrypt` adds.

Rule: reads only; needs the keyring, but neither index nor lock. No plaintext leaves this module.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coffer.archive.body.sealed_body import BodyContext, BodyReader
from coffer.archive.events import codec
from coffer.archive.events.recorded import Recorded
from coffer.archive.format.entry import OWN_LOG
from coffer.archive.format.record import CLEAR_KINDS, Kind, RecordHeader
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.report import OpenRecord
from coffer.index.dicom.attributes import SERIES_UID, SOP_INSTANCE, STUDY_UID
from coffer.index.dicom.elements import HeaderLimits
from coffer.index.dicom.headers import scan
from coffer.index.instance.entry import Identity, extract
from coffer.index.instance.object_meta import ObjectMeta
from coffer.index.instance.order import Order
from coffer.keys.crypto import derive
from coffer.keys.errors import IntegrityError
from coffer.keys.keyring.keyring import Keyring
from coffer.server.config.settings import Config
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.engine.rollback import missed
from coffer.server.engine.sealing import header_limits_of
from coffer.server.maintenance.version_order import row_of

__all__ = ["Unsealer", "open_records"]

_UIDS = frozenset({STUDY_UID, SERIES_UID, SOP_INSTANCE})
_EVENTS = frozenset(Kind) - {Kind.OBJECT, Kind.STUDY_KEY_CREATED} - {*CLEAR_KINDS}


class Unsealer:
    """Opens records one by one; see `archive.verify.report.OpenRecord`."""

    def __init__(self, keyring: Keyring, limits: HeaderLimits | None = None) -> None:
        """`limits` bound the headers that are parsed."""
        self._keyring = keyring
        self._limits = limits
        self._event_key = keyring.archive_key(derive.EVENT)

    def __call__(self, header: RecordHeader, read: Callable[[int, int], bytes]) -> bytes:
        """Check an object against the SHA-256 of its data set, a key against its check value, an event by its seal, and
        the beginning of an epoch of the log by its schema.

        Returns what an object says of the version before it, for `VersionOrder`. Raises IntegrityError, and the same
        errors as `Keyring.study`.
        """
        if header.kind == Kind.OBJECT:
            return self._object(header, read)
        if header.kind == Kind.STUDY_KEY_CREATED:
            if self._keyring.study(header.study_key_id).kcv != read(0, header.body_len):
                raise IntegrityError("the keyring holds another key for this study than the one created")
        elif header.kind == Kind.LOG_EPOCH:
            codec.decode(read(0, header.body_len), header.kind)
        elif header.kind in _EVENTS:
            Recorded.open(self._event_key, self._keyring.archive_id, header, read(0, header.body_len))
        return b""

    def _object(self, header: RecordHeader, read: Callable[[int, int], bytes]) -> bytes:
        context = BodyContext(self._keyring.archive_id, header.study_key_id, header.content_id, Kind.OBJECT)
        key = self._keyring.study(header.study_key_id)
        with BodyReader(key.blob, context, read, header.body_len) as body:
            chunks = body.chunks()
            first = next(chunks, b"")
            for _ in chunks:
                pass
            meta = ObjectMeta.decode(body.meta)
            # The first frame nearly always holds the UIDs: to open it again would cost a fifth of the whole check.
            scanned = scan(
                lambda start, stop: first[start:stop] if stop <= len(first) else body.read(start, stop),
                body.length, meta.transfer_syntax, self._limits, wanted=_UIDS,
            )  # fmt: skip
        entry = extract(scanned, Identity(meta.sop_class, meta.sop_instance))
        order = meta.order or Order(header.time_ms, OWN_LOG, header.seq)
        return row_of(entry, order, header.seq, meta.original or header.content_id, meta.previous or b"")


@contextmanager
def open_records(config: Config) -> Iterator[OpenRecord]:
    """Yield an Unsealer with the archive's keyring, also beside a writer.

    Raises the same errors as `Keyring.open`, and HistoryError if the keyring holds a key that the log says is shredded.
    """
    folder = ArchiveFolder.open(config.archive)
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)
    reader = LogReader(folder)
    try:
        missed(folder, keyring, reader).require_none_shredded()
        yield Unsealer(keyring, header_limits_of(config.limits))
    finally:
        reader.close()
        keyring.close()
