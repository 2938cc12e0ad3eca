"""Processes that receive, seal and hand out, in front of the one that commits (docs/adr/0004)."""

from server.lanes.pool import Lanes

__all__ = ["Lanes"]
