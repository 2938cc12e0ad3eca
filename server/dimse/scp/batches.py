"""Split what a C-MOVE sends into batches whose presentation contexts fit into one association (PS3.8 9.3.2.2: 128).

Rule: what no peer could read is not proposed: one SOP class that is no UID could cost all other objects theirs.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.services.api import Instance
from coffer.server.services.transcode import CONVERTIBLE

_MOST_CONTEXTS: Final = 128
_UID: Final = re.compile(r"[0-9.]{1,64}")  # PS3.8 F; leading zeros of a component do no harm


class AssociationBatch(NamedTuple):
    """Instances for one association, and the contexts to propose for them: none if nothing can be proposed."""

    instances: list[Instance]
    offers: list[Offer]


def batches(instances: Iterable[Instance]) -> Iterator[AssociationBatch]:
    """The instances in their order, in as few batches as that allows."""
    part: list[Instance] = []
    pairs: set[tuple[str, str]] = set()
    for instance in instances:
        more = pairs | _pairs(instance)
        if len(more) > _MOST_CONTEXTS:
            yield AssociationBatch(part, _offers(pairs))
            part, more = [], _pairs(instance)
        part.append(instance)
        pairs = more
    if part:
        yield AssociationBatch(part, _offers(pairs))


def _pairs(instance: Instance) -> set[tuple[str, str]]:
    """The SOP class with each transfer syntax an instance can be sent in: its own, and those it can be converted to."""
    if not _UID.fullmatch(instance.sop_class):
        return set()
    others = {s for s in CONVERTIBLE if instance.convertible_to(s)}
    return {(instance.sop_class, syntax) for syntax in {instance.transfer_syntax, *others} if _UID.fullmatch(syntax)}


def _offers(pairs: set[tuple[str, str]]) -> list[Offer]:
    return [Offer(2 * i + 1, sop_class, (syntax,)) for i, (sop_class, syntax) in enumerate(sorted(pairs))]
