"""Processes that receive, seal and hand out, in front of the one that commits (docs/adr/0004)."""

from coffer.server.lanes.pool import Lanes

__all__ = ["Lanes"]
