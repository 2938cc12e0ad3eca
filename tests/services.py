"""The services over an archive that a test has open."""

from weakref import WeakKeyDictionary

from coffer.server.engine.archive import WritableArchive
from coffer.server.services.bundle import WriterServices

_made: WeakKeyDictionary[WritableArchive, WriterServices] = WeakKeyDictionary()


def services(archive: WritableArchive) -> WriterServices:
    """Its services, the same at each call: an archive has one committer, as in a server."""
    made = _made.get(archive)
    if made is None:
        made = _made[archive] = WriterServices.of(archive)
    return made
