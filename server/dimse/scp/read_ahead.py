"""The content of each instance to send, opened while the peer is busy with the one before.

Rule: an object goes out in its stored syntax where the peer accepts it, converted where both are uncompressed little
endian, and otherwise not at all. Whatever is wrong with one object is a reason in its place, never an exception.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from coffer.keys.errors import CofferError
from coffer.server.dimse.protocol.channel import Context
from coffer.server.observe.logs import get_logger
from coffer.server.services.api import Instance

__all__ = ["Content", "ReadAhead"]

_log = get_logger()

# An object up to this size is read and verified completely before its first byte is sent. In a larger one, damage that
# is found during transmission costs the association.
_VERIFIED_FIRST_BYTES: Final = 16 << 20


class Content(NamedTuple):
    """What to send of an instance, and the context to send it on."""

    context: Context
    data: Iterable[bytes]


class ReadAhead:
    """Iterates over instances, each with its content or the reason why it cannot be sent. Used by one thread.

    Opening the next ones in threads was slower while numpy decoded: each of its short calls releases the global lock,
    and getting it back from the sending thread takes longer than the call (docs/adr/0012-retrieve-in-one-thread.md).
    """

    def __init__(self, instances: Iterable[Instance], contexts: Collection[Context]) -> None:
        self._rest = iter(instances)
        self._contexts = contexts
        self._next: tuple[Instance, Content | str] | None = None

    def __iter__(self) -> Iterator[tuple[Instance, Content | str]]:
        while True:
            self.prepare()
            prepared, self._next = self._next, None
            if prepared is None:
                return
            yield prepared

    def prepare(self) -> None:
        """Open the next instance unless that was done already."""
        if self._next is None and (instance := next(self._rest, None)) is not None:
            self._next = instance, _content(instance, self._contexts)


def _content(instance: Instance, contexts: Iterable[Context]) -> Content | str:
    """The context and the bytes to send on it, or why it cannot be sent."""
    usable = [c for c in contexts if c.abstract_syntax == instance.sop_class]
    context = next((c for c in usable if c.transfer_syntax == instance.transfer_syntax), None)
    try:
        if context is not None:
            data: Iterable[bytes] = instance.open(fast=True)
        else:
            context = next((c for c in usable if instance.convertible_to(c.transfer_syntax)), None)
            if context is None:
                return f"not accepted: syntax {instance.transfer_syntax}"
            data = instance.convert_to(context.transfer_syntax)
        if instance.length <= _VERIFIED_FIRST_BYTES:
            data = list(data)
    except CofferError as error:
        _log.error("an object cannot be sent", name="object.send_failed", cause=str(error), remedy=error.hint())
        return str(error)
    except Exception as error:  # noqa: BLE001  # one object must not take the others with it
        _log.exception("an object cannot be sent: internal error", name="object.send_failed")
        return f"internal error: {type(error).__name__}"
    return Content(context, data)
