"""Processes that receive, seal and hand out, in front of the one that commits (docs/adr/0004)."""
