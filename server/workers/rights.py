"""What one line may request, by what it has done so far: its caller, the keys it was given, its calls to the observer.

Rule: a worker parses what strangers send, so its messages are compared with what an honest worker can send
(`server.workers.checks` checks single messages, this their sequence). Breaking a rule closes the line. A line gets the
keys of objects that its last plan returned, and of the study being received; which study that is cannot be known here,
so a line that keeps requesting keys and stores nothing gets no more of them.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from coffer.index.instance.identity import PartId
from coffer.server.access.principal import Principal
from coffer.server.workers.checks import BrokenRule
from coffer.server.workers.messages import AssociationClosed, AssociationOpened, ObserverCall

__all__ = ["Rights"]

_MOST_UNUSED: Final = 32  # studies whose key was given and in which nothing was stored; an honest line has one or two
_MOST_PARTS: Final = 256  # remembered; an honest line keeps the key of the last one only
_MOST_CALLS: Final = 20_000  # at once
_CALLS_A_SECOND: Final = 10_000.0  # an association that only sends C-ECHO stays below this


class Rights:
    """The rights of one line, from its first message to its last. Used by the coordinator's thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._caller: Principal | None = None
        self._has_claimed = False
        self._parts: OrderedDict[PartId, bool] = OrderedDict()  # given keys: whether an object was stored since
        self._keys: set[bytes] = set()
        self._given: OrderedDict[bytes, None] = OrderedDict()
        self._tokens = float(_MOST_CALLS)
        self._counted = now()
        self._association: bool | None = None  # None: not yet, True: open, False: ended

    def claim(self) -> None:
        """Record that the line says who calls. Raises BrokenRule if it did so before."""
        if self._has_claimed:
            raise BrokenRule("it said who calls a second time")
        self._has_claimed = True

    def bind(self, caller: Principal) -> None:
        """Record who calls, as it was proved: no message of the worker changes it any more."""
        self._caller = caller

    @property
    def bound(self) -> Principal | None:
        """Who calls; None before anybody was let in."""
        return self._caller

    @property
    def caller(self) -> Principal:
        """Who calls. Raises BrokenRule where nobody was let in."""
        if self._caller is None:
            raise BrokenRule("it asked for something before anybody was let in")
        return self._caller

    def require_same(self, calling_ae: str) -> None:
        """Raise BrokenRule if the association has another calling AE title."""
        if calling_ae != self.caller.ae_title:
            raise BrokenRule("an association changed its AE titles")

    def show(self, part: PartId) -> None:
        """Record that the key of a part is about to be given, so that an object can be sealed under it."""
        self._parts[part] = self._parts.pop(part, False)
        if sum(not used for used in self._parts.values()) > _MOST_UNUSED:
            raise BrokenRule(f"it requested the keys of more than {_MOST_UNUSED} studies and stored nothing in them")
        if len(self._parts) > _MOST_PARTS:
            self._parts.popitem(last=False)

    def require_shown(self, part: PartId) -> None:
        """Raise BrokenRule if this line was not given the key: then it can have sealed nothing under it."""
        if part not in self._parts:
            raise BrokenRule("it sent an object of a study whose key it did not request")

    def stored(self, part: PartId) -> None:
        """Record that an object of this part was committed."""
        if part in self._parts:
            self._parts[part] = True

    def plan(self) -> None:
        """Begin a retrieval: what an earlier one returned no longer counts."""
        self._keys.clear()

    def returned(self, key_ids: Iterable[bytes]) -> None:
        """Record that the plan returned objects under these keys."""
        self._keys.update(key_ids)

    def require_returned(self, key_id: bytes) -> None:
        """Raise BrokenRule if the line's last plan returned no object under this key."""
        if key_id not in self._keys:
            raise BrokenRule("it requested the key of an object that no plan returned")

    def give(self, key_id: bytes) -> None:
        """Record that a key is given."""
        self._given[key_id] = self._given.pop(key_id, None)
        if len(self._given) > _MOST_PARTS:
            self._given.popitem(last=False)

    def require_given(self, key_id: bytes) -> None:
        """Raise BrokenRule if the line was not given this key."""
        if key_id not in self._given:
            raise BrokenRule("it asked about a key that it was not given")

    def observe(self, call: ObserverCall) -> None:
        """Record a call to the observer. Raises BrokenRule for one that an honest line cannot make."""
        now = self._now()
        self._tokens = min(float(_MOST_CALLS), self._tokens + (now - self._counted) * _CALLS_A_SECOND) - 1
        self._counted = now
        if self._tokens < 0:
            raise BrokenRule("it reports more than an association can do")
        if isinstance(call, AssociationOpened):
            if self._association is not None:
                raise BrokenRule("its association began a second time")
            self._association = True
        elif isinstance(call, AssociationClosed):
            if self._association is not True:
                raise BrokenRule("its association ended without having begun")
            self._association = False

    @property
    def is_associated(self) -> bool:
        """Whether it reported an association and not yet its end."""
        return self._association is True
