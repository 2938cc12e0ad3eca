"""What one line may ask for, by what it has done so far: its caller, the keys it has been shown, how much it tells.

Rule: a worker parses what strangers send, so whatever comes from it is held against what an honest one can say
(`server.workers.checks` looks at single messages, this at their sequence). What breaks a rule costs the line. A key is
shown for an object that a plan of this line returned, or for the study that is being received; it cannot be known here
which study that is, so a line that keeps asking and stores nothing gets no more of them.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from coffer.index.instance.identity import PartId
from coffer.server.access.principal import Principal
from coffer.server.workers.checks import BrokenRule
from coffer.server.workers.messages import AssociationClosed, AssociationOpened, ObserverCall

__all__ = ["Rights"]

_MOST_UNUSED: Final = 32  # studies whose key was shown and in which nothing was stored; an honest line has one or two
_MOST_PARTS: Final = 256  # that are remembered; an honest line keeps the key of the last one only
_MOST_TOLD: Final = 20_000  # at once
_TOLD_A_SECOND: Final = 10_000.0  # an association that only echoes tells less than that


class Rights:
    """Of one line, from its first message to its last. Used by the coordinator's thread."""

    def __init__(self, host: str, now: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._now = now
        self._caller: Principal | None = None
        self._calling_ae: str | None = None
        self._parts: OrderedDict[PartId, bool] = OrderedDict()  # shown: whether an object was stored since
        self._keys: set[bytes] = set()
        self._tokens = float(_MOST_TOLD)
        self._counted = now()
        self._association: bool | None = None  # None: not yet, True: open, False: ended

    def caller(self, said: Principal) -> Principal:
        """Who asks. Its address is the one that was connected; its AE titles stay what they first were."""
        self.require_same(said.ae_title)
        caller = replace(said, host=self._host)
        if self._caller is None:
            self._caller = caller
        elif caller != self._caller:
            raise BrokenRule("an association changed its AE titles")
        return caller

    def require_same(self, calling_ae: str) -> None:
        """Raise where the association had another calling AE title before."""
        if self._calling_ae is None:
            self._calling_ae = calling_ae
        elif calling_ae != self._calling_ae:
            raise BrokenRule("an association changed its AE titles")

    def show(self, part: PartId) -> None:
        """Its key is about to be shown, so that an object is sealed under it."""
        self._parts[part] = self._parts.pop(part, False)
        if sum(not used for used in self._parts.values()) > _MOST_UNUSED:
            raise BrokenRule(f"it asked for the keys of {_MOST_UNUSED} studies and stored nothing in them")
        if len(self._parts) > _MOST_PARTS:
            self._parts.popitem(last=False)

    def require_shown(self, part: PartId) -> None:
        """Raise where the study's key was not shown to this line: then it sealed nothing under it."""
        if part not in self._parts:
            raise BrokenRule("an object of a study whose key was not asked for")

    def stored(self, part: PartId) -> None:
        """An object of this study was committed."""
        if part in self._parts:
            self._parts[part] = True

    def plan(self) -> None:
        """A retrieval begins: what an earlier one returned counts no more."""
        self._keys.clear()

    def returned(self, key_ids: Iterable[bytes]) -> None:
        """Objects under these keys were returned by the plan."""
        self._keys.update(key_ids)

    def require_returned(self, key_id: bytes) -> None:
        """Raise where no object under this key was returned by the line's last plan."""
        if key_id not in self._keys:
            raise BrokenRule("the key of an object that no plan returned")

    def observe(self, call: ObserverCall) -> None:
        """It tells something for the metrics."""
        now = self._now()
        self._tokens = min(float(_MOST_TOLD), self._tokens + (now - self._counted) * _TOLD_A_SECOND) - 1
        self._counted = now
        if self._tokens < 0:
            raise BrokenRule("it tells more than an association can do")
        if isinstance(call, AssociationOpened):
            if self._association is not None:
                raise BrokenRule("its association began a second time")
            self._association = True
        elif isinstance(call, AssociationClosed):
            if self._association is not True:
                raise BrokenRule("its association ended, and there is none")
            self._association = False

    @property
    def is_associated(self) -> bool:
        """Whether it told of an association and not yet of its end."""
        return self._association is True
